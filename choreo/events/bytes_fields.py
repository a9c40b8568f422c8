"""Fields of events that hold bytes, which JSON has not."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def bytes_field_of(event: type[BaseModel]) -> str:
    """
    The first field whose bytes would be written as if they were a text; "" if there is none.

    A field with an encoding, such as `pydantic.Base64Bytes`, or with a serializer of its own is none of these.
    """
    suspects = [name for name, field in event.model_fields.items() if _names_bytes(field.annotation, set())]
    if not suspects:
        return ""  # nearly all events: the schema takes a millisecond
    try:
        schema = event.model_json_schema(mode="serialization", by_alias=False)
    except Exception:  # pydantic's, or of a type of the user's
        return ""  # JSON has no type for some field; the event says so when it is announced
    fields, models = schema.get("properties", {}), schema.get("$defs", {})
    return next((name for name in suspects if "binary" in _formats(fields.get(name), models, set())), "")


def _names_bytes(annotation: Any, seen: set[int]) -> bool:
    """True if an annotation, or a field of a model in it, names bytes."""
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_names_bytes(field.annotation, seen) for field in annotation.model_fields.values())
    if isinstance(annotation, type) and issubclass(annotation, bytes):
        return True
    return any(_names_bytes(part, seen) for part in get_args(annotation))


def _formats(schema: Any, models: dict[str, Any], seen: set[str]) -> Iterator[str]:
    """Every ``format`` in a JSON schema, and in the models to which it refers."""
    if isinstance(schema, list):
        for part in schema:
            yield from _formats(part, models, seen)
    if not isinstance(schema, dict):
        return
    if isinstance(kind := schema.get("format"), str):
        yield kind
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name in models and name not in seen:
        seen.add(name)
        yield from _formats(models[name], models, seen)
    for part in schema.values():
        yield from _formats(part, models, seen)
