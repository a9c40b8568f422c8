"""JSON Schemas in words, for people."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
#: Keyword → how a bound is said.
_BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "up to {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "of {} characters or more",
    "maxLength": "of up to {} characters",
    "pattern": "like {}",
    "minItems": "of {} or more",
    "maxItems": "of up to {}",
    "minProperties": "of {} fields or more",
    "maxProperties": "of up to {} fields",
}
#: The most values of an enum that are named.
MOST = 5


def described(schema: Mapping[str, Any]) -> str:
    """``a text``, ``a whole number from 1``, ``"eur" or "usd"``, ``a text (uuid)``; ``anything`` for {}."""
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return _one_of([json.dumps(value, ensure_ascii=False) for value in schema["enum"]])
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _one_of(list(dict.fromkeys(described(part) for part in schema[keyword])))
    if "$ref" in schema:
        return f"a {schema['$ref'].rpartition('/')[2]}"
    kinds = schema.get("type", [])
    names = [_TYPES.get(kind, str(kind)) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " ".join([_one_of(names) or "anything", *_details(schema)])


def _details(schema: Mapping[str, Any]) -> Iterator[str]:
    if "format" in schema:
        yield f"({schema['format']})"
    for keyword, said in _BOUNDS.items():
        if keyword in schema:
            yield said.format(schema[keyword])


def _one_of(names: list[str]) -> str:
    if len(names) > MOST:
        return f"{', '.join(names[:MOST])} or {len(names) - MOST} more"
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
