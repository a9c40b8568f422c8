"""Faults of event classes: fields that are written in one way and read in another, so that no event comes back."""

from collections.abc import Iterable, Iterator, Set
from typing import Any

from choreo.events.schema import Node, Schema, is_own_serializer, is_pydantics

#: What JSON is parsed into.
_PARSED = (str, int, float, bool, list, dict, type(None))


def fault_of(name: str, known: Iterable[Node]) -> str:
    """
    The first fault of a class: the field, why it cannot be read back, and the way out. "" if there is none.

    ``name`` is that of the class, and ``known`` are the nodes of its core schema.
    """
    for node in known:
        for place, fault in _faults(node):
            inside = "" if place.startswith(f"{name}.") else f" (in {name}{node.holder and '.'}{node.holder})"
            return f"{place}{inside}: {fault}"
    return ""


def _faults(node: Node) -> Iterator[tuple[str, str]]:
    if (
        "fields" in node.schema
        and not node.is_reshaped
        and not node.is_rewritten
        and not is_own_serializer(node.schema)
    ):
        yield from _faults_of_names(node)
    for fault in filter(None, (_of_value(node), _of_object(node))):
        yield node.place, fault


def _faults_of_names(node: Node) -> Iterator[tuple[str, str]]:
    owner, known = _owner(node), dict(node.fields)
    for name, field in known.items():
        written, read = written_name(name, field), read_names(name, field, node.config)
        if field.get("init") is False:
            continue
        if not field.get("serialization_exclude"):
            if written not in read:
                yield f"{owner}{name}", _other_name(written, read)
        elif _is_required(field):
            yield f"{owner}{name}", _EXCLUDED
    if _extra(node) != "forbid":
        return
    taken = {one for name, field in known.items() for one in read_names(name, field, node.config)}
    for computed in node.schema.get("computed_fields", ()):
        name = computed["property_name"]
        if computed.get("alias", name) not in taken:
            yield f"{owner}{name}", _COMPUTED


_EXCLUDED = (
    "it is required, and exclude=True keeps it out of the event, so no handler could read it. Give it a default, or "
    "leave out exclude=True."
)
_COMPUTED = (
    'a computed field is written, and extra="forbid" refuses it when the event is read. Leave out extra="forbid", or '
    "make it a property without @computed_field."
)


def _other_name(written: str, read: Set[str]) -> str:
    known = " or ".join(map(repr, sorted(read))) or "a part of another field"
    return (
        f"it is written as {written!r}, and read as {known}. Give both names in one: Field(alias={written!r}); or read "
        f"it under the other, too: Field(validation_alias=AliasChoices({written!r}, ...))."
    )


def _of_value(node: Node) -> str:
    """Why no value can be written here and read back; "" if one can."""
    if node.is_rewritten or is_own_serializer(node.schema):
        return ""
    if _is_secret(node.schema):
        return (
            "a secret is written as asterisks, and an event is read by every service that listens. Announce where the "
            "secret is kept."
        )
    if node.kind == "json" and not node.is_reshaped:
        return (
            "Json[...] reads a text and is written as what the text holds. Annotate the field with the type itself, "
            "such as list[int]: events travel as JSON anyway."
        )
    if node.kind == "bytes" and node.config.get("ser_json_bytes", "utf8") != node.config.get("val_json_bytes", "utf8"):
        return "ser_json_bytes and val_json_bytes differ, so it would be read as other bytes. Give both the same value."
    if node.schema.get("now_op") == "future":
        return (
            "it must be in the future when the event is read, which may be any time after it was announced. Annotate "
            "it with datetime or date, and check it where the event is made."
        )
    return ""


def _of_object(node: Node) -> str:
    """Why a required field can never be read; "" if it can."""
    if not node.kind.endswith("-field") or not _is_required(node.schema):
        return ""
    inner = node.schema["schema"]
    kind, cls = inner["type"], inner.get("cls")
    if kind in ("is-subclass", "callable") or (kind == "is-instance" and not _is_parsed(cls)):
        named = getattr(cls, "__name__", "") or "a function"
        return (
            f"events travel as JSON, of which no {named} can be read. Announce its parts, or give the field a "
            f"validator that makes one, and a serializer."
        )
    return ""


def _is_parsed(cls: Any) -> bool:
    try:
        return any(issubclass(one, cls) for one in _PARSED)
    except TypeError:
        return True


def _is_secret(schema: Schema) -> bool:
    function = schema.get("serialization", {}).get("function")
    # `_serialize_secret`, or in older versions `Secret.__get_pydantic_core_schema__.<locals>.serialize`.
    return is_pydantics(function) and "secret" in str(getattr(function, "__qualname__", "")).lower()


def _owner(node: Node) -> str:
    name = node.schema.get("model_name") or node.schema.get("dataclass_name")
    return f"{name}." if name else f"{node.place}." if node.place else ""


def _extra(node: Node) -> str | None:
    extra: str | None = node.schema.get("extra_behavior") or node.config.get("extra_fields_behavior")
    return extra


def _is_required(field: Schema) -> bool:
    if "required" in field:
        return bool(field["required"])
    schema: Schema = field["schema"]
    while str(schema["type"]).startswith("function-") and "schema" in schema:
        schema = schema["schema"]
    return bool(schema["type"] != "default")


def written_name(name: str, field: Schema) -> str:
    """The name under which a field is written. ``field`` is its node."""
    return str(field.get("serialization_alias", name))


def read_names(name: str, field: Schema, config: Schema) -> set[str]:
    """The names under which a field is read. A part of another field, such as the first of a list, has none."""
    alias = field.get("validation_alias")
    if alias is None:
        return {name}
    by_name = config.get("validate_by_name", config.get("populate_by_name", False))
    return (set(_names(alias)) if config.get("validate_by_alias", True) else set()) | ({name} if by_name else set())


def _names(alias: Any) -> Iterator[str]:
    """``"a"``, a path such as ``["a", 0]``, or several paths."""
    paths = [[alias]] if isinstance(alias, str) else [alias] if alias and not isinstance(alias[0], list) else alias
    yield from (path[0] for path in paths if len(path) == 1)
