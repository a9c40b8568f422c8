"""The JSON Schema of a class: of what an event writes, and of what a model reads."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import AliasPath, BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from choreo.events.wire_names import choices_of

Schema = Mapping[str, Any]

#: The keyword for further names under which a reader looks for a field: property → names, or paths of names.
ALSO = "x-also"
#: What says nothing of a value, or changes between versions of pydantic.
_WORDS = frozenset({"title", "description", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})


class _Shape(GenerateJsonSchema):
    """Without texts for people, and the same for every version of pydantic that choreo runs on."""

    def get_title_from_name(self, name: str) -> str:  # noqa: ARG002 - pydantic's signature
        """A title says nothing that the name of the field does not."""
        return ""

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """A number, or a text with one. pydantic's own pattern for it is another one in some versions."""
        made = super().decimal_schema(schema)
        for part in made.get("anyOf", [made]):
            if part.get("type") == "string":
                part.pop("pattern", None)
                part["format"] = "decimal"
        return made


class _Read(_Shape):
    """Of a reader: with the other names under which it looks for a field."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """The schema of a model."""
        made = super().model_schema(schema)
        also = _also(schema["cls"], made.get("properties", {}))
        return made | {ALSO: also} if also else made


class _Written(_Shape):
    """Of a writer: an event writes every field, also one with a default."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        """True unless the field may be left out."""
        if field.get("serialization_exclude_if") is not None:
            return False
        return field["type"] in ("model-field", "dataclass-field") or super().field_is_required(field, total)


@lru_cache(maxsize=4096)
def written(event: type[BaseModel]) -> Schema:
    """What instances of this class look like as JSON. {} (anything) if only running it could tell."""
    return _schema(event, "serialization", _Written)


@lru_cache(maxsize=4096)
def read(model: type[BaseModel]) -> Schema:
    """
    The JSON that this class takes. {} (anything) if only running it could tell.

    What pydantic would convert does not count: a text with a number is no number.
    """
    return _schema(model, "validation", _Read)


def _schema(model: type[BaseModel], mode: Any, generator: type[GenerateJsonSchema]) -> Schema:
    try:
        made = model.model_json_schema(mode=mode, by_alias=True, schema_generator=generator)
    except Exception:  # pydantic's, or of a type of the user's
        return {}
    return _plain(made, is_schema=True)  # type: ignore[no-any-return]


def _plain(value: Any, *, is_schema: bool) -> Any:
    """Without what is for people only. The keys of ``properties`` and ``$defs`` are names, and stay."""
    if isinstance(value, list):
        return [_plain(part, is_schema=is_schema) for part in value]
    if not isinstance(value, dict):
        return value
    if not is_schema:
        return {name: _plain(part, is_schema=True) for name, part in sorted(value.items())}
    return {
        name: part if name in _VALUES else _plain(part, is_schema=name not in _NAMED)
        for name, part in sorted(value.items())
        if name not in _WORDS
    }


#: Keywords whose values hold schemas by names; and those whose values hold no schemas.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
_VALUES = frozenset({"enum", "const", "default", "required", "discriminator", ALSO})


def _also(model: type[BaseModel], properties: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Property → the other places where the model looks for it: a name, or a path as a list."""
    found = {}
    for name, info in _fields(model).items():
        places = [_name_or_path(choice) for choice in choices_of(name, info)]
        if model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"):
            places.append(name)
        known = next((one for one in places if isinstance(one, str) and one in properties), name)
        if others := [one for one in places if one != known]:
            found[known] = others
    return found


def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return model.model_fields


def _name_or_path(choice: str | AliasPath) -> Any:
    if isinstance(choice, str):
        return choice
    return choice.path[0] if len(choice.path) == 1 else list(choice.path)
