"""The names of fields on the wire: those under which a model looks for them, and the one under which it writes them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo


def wire_names(model: type[BaseModel]) -> Iterator[str]:
    """The names of the fields on the wire, in their order. A field has several if it is read under several."""
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    names: Mapping[str, FieldInfo] = model.model_fields
    for name, info in names.items():
        for choice in choices_of(name, info):
            with suppress(IndexError):
                yield str(choice.path[0]) if isinstance(choice, AliasPath) else choice
        if by_name and (info.validation_alias or info.alias or name) != name:
            yield name


def written_name(name: str, info: FieldInfo) -> str:
    """The name under which a field is written."""
    return info.serialization_alias or info.alias or name


def choices_of(name: str, info: FieldInfo) -> list[str | AliasPath]:
    """The names and paths under which the data is looked through for this field, the first one first."""
    alias = info.validation_alias or info.alias or name
    return list(alias.choices) if isinstance(alias, AliasChoices) else [alias]
