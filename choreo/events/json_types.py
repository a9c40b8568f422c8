"""The JSON types that a field of an event can have on the wire."""

from typing import Any

from choreo.events.event import Event


def json_types(event: type[Event], name: str) -> set[str]:
    """
    The types of the field with this name on the wire, such as {"string", "null"}; "unknown" for one without a schema.

    {"string"} if the class has no such field, or no schema.
    """
    return {str(one.get("type", "string" if "enum" in one else "unknown")) for one in field_schemas(event, name)}


def field_schemas(event: type[Event], name: str) -> list[dict[str, Any]]:
    """The JSON schemas of the field with this name on the wire: one for each member of a union."""
    try:
        whole = event.model_json_schema(mode="serialization")
    except Exception:  # pydantic's, or of a type of the user's
        return [{"type": "string"}]
    schema = whole.get("properties", {}).get(name, {"type": "string"})
    found = [_resolved(one, whole) for one in schema.get("anyOf", [schema])]
    return [one if one else {"type": "string"} for one in found]


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return dict(whole.get("$defs", {}).get(name, schema)) if name else schema
