"""What pydantic converts: a whole number for a time, a text of a decimal for a number."""

from collections.abc import Mapping
from typing import Any

from choreo.schemas.clash import Clash, Kind
from choreo.schemas.fit import clashes
from choreo.schemas.shape import Schema

#: A value of these types is read as one of any of these, if it has the right value.
_NUMBERS = ("integer", "number", "boolean")
#: Forms of texts of which pydantic takes numbers, too.
_TIMES = frozenset({"date-time", "date", "time", "duration"})
#: What no conversion mends. Of a text of another form, or of a value out of bounds, that is not sure.
_SURE = frozenset({Kind.MISSING, Kind.REFUSED, Kind.TYPE, Kind.VALUE})


def sure_clashes(written: Schema, read: Schema) -> list[Clash]:
    """
    The clashes for which no event that is written can be read, whatever pydantic converts. In doubt there is none.

    `choreo.schemas.fit.clashes` also finds what only some events have, and does not count conversions.
    """
    sure = {
        clash.path
        for clash in clashes(_converted(written, _as_written), _converted(read, _as_read))
        if clash.is_total and clash.is_fatal and clash.kind in _SURE
    }
    return [clash for clash in clashes(written, read) if clash.path in sure and clash.kind in _SURE]


def _converted(schema: Any, convert: Any) -> Any:
    if isinstance(schema, list):
        return [_converted(part, convert) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {name: _converted(part, convert) for name, part in schema.items()}
    return convert(made) if isinstance(made.get("type"), str) else made


def _as_written(schema: dict[str, Any]) -> dict[str, Any]:
    if schema["type"] in _NUMBERS and "const" not in schema and "enum" not in schema:
        return {"anyOf": [schema, *({"type": kind} for kind in _NUMBERS)]}
    if schema["type"] == "string" and _may_be_a_number(schema):
        return {"anyOf": [schema, *({"type": kind} for kind in _NUMBERS)]}
    return schema


def _may_be_a_number(schema: Mapping[str, Any]) -> bool:
    values = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return schema.get("format") == "decimal" or "pattern" in schema or any(str(value).isdigit() for value in values)


def _as_read(schema: dict[str, Any]) -> dict[str, Any]:
    if schema["type"] == "string" and schema.get("format") in _TIMES:
        return {"anyOf": [schema, {"type": "integer"}, {"type": "number"}]}
    return schema
