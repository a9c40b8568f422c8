"""
Does what one writes fit what another reads? Judged over two JSON Schemas.

The writer's schema is closed: it writes its fields, and no others. The reader's is open: it ignores what it does not
know. So a field that is added breaks nobody.

The dialect is what pydantic makes: draft 2020-12 without ``not``, ``if`` and the like. A keyword of the reader that is
not judged, and that the writer has not in the same form, is a clash. So a comparison that failed is never a pass.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any

from choreo.schemas.clash import Clash, Kind
from choreo.schemas.shape import ALSO, Schema
from choreo.schemas.words import described

#: Keywords that say nothing of which values there are. A set reads a list with equal values, so ``uniqueItems`` is one.
_SILENT = frozenset({"$defs", "$schema", "$id", "$ref", "default", "discriminator", "uniqueItems", "contentEncoding"})
#: Keywords that are judged below.
_JUDGED = frozenset(
    "type enum const anyOf oneOf allOf properties required additionalProperties patternProperties propertyNames "
    "minProperties maxProperties items prefixItems minItems maxItems minLength maxLength pattern format multipleOf "
    "minimum maximum exclusiveMinimum exclusiveMaximum contentMediaType contentSchema".split()
)
#: The types of JSON. A whole number is a number, too.
_ALL = ("null", "boolean", "integer", "number", "string", "array", "object")
#: How deep models may be nested. Recursive ones are recognised before.
DEEPEST = 40


def clashes(written: Schema, read: Schema) -> list[Clash]:
    """
    What a reader with the schema ``read`` does not take of what a writer with the schema ``written`` writes.

    Empty if it takes everything. A clash that is not fatal is a field that is never written: its default is read.
    """
    return list(dict.fromkeys(_Fit(written.get("$defs", {}), read.get("$defs", {})).clashes(written, read, "")))


def fits(written: Schema, read: Schema) -> bool:
    """True if a reader with the schema ``read`` takes everything that is written."""
    return not any(clash.is_fatal for clash in clashes(written, read))


class _Fit:
    """One comparison, with the models that both sides refer to."""

    def __init__(self, written: Mapping[str, Any], read: Mapping[str, Any]) -> None:
        self._written, self._read = written, read
        #: The pairs of models that are being compared: a model may hold itself.
        self._open: set[tuple[int, int]] = set()

    def clashes(self, written: Any, read: Any, path: str) -> Iterator[Clash]:
        """Compare two schemas, and those that they hold."""
        written, read = _resolved(written, self._written), _resolved(read, self._read)
        pair = id(written), id(read)
        if pair in self._open:
            return
        if len(self._open) > DEEPEST:
            yield Clash(Kind.UNJUDGED, path, read=f"it is nested more than {DEEPEST} levels deep")
            return
        self._open.add(pair)
        try:
            yield from self._compared(written, read, path)
        finally:
            self._open.discard(pair)

    def _compared(self, written: Schema, read: Schema, path: str) -> Iterator[Clash]:
        if strange := sorted(key for key in read if _is_strange(key) and read[key] != written.get(key)):
            yield Clash(Kind.UNJUDGED, path, read=f"its schema has {', '.join(strange)}")
            return
        if not _JUDGED & read.keys():
            return  # it takes anything
        found = [list(self._atom(part, read, path)) for part in _atoms(written, self._written)]
        if _is_anything(written):
            if any(clash.is_fatal for clashes in found for clash in clashes):
                yield Clash(Kind.TYPE, path, "anything", described(read))
            return
        is_total = all(any(clash.is_total for clash in clashes) for clashes in found)
        for clashes in found:
            yield from clashes if is_total else _partly(clashes)

    def _atom(self, written: Schema, read: Schema, path: str) -> Iterator[Clash]:
        """``written`` has one type, and no alternatives."""
        parts = _branches(read, self._read)
        found = [list(self._single(written, part, path)) for part in parts]
        if any(not [clash for clash in one if clash.is_fatal] for one in found):
            yield from min(found, key=_weight, default=[])
            return
        best = [one for part, one in zip(parts, found, strict=True) if _is_alike(written, part, self._read)]
        if len(parts) == 1 or len(best) == 1:
            yield from (best or found)[0]
            return
        yield self._mismatch(written, read, path)

    def _mismatch(self, written: Schema, read: Schema, path: str) -> Clash:
        kinds = {kind for part in _branches(read, self._read) for kind in _types(part)}
        kind = next(iter(_types(written)), "")
        if kind == "null":
            return Clash(Kind.NULL, path, "null", described(read), is_total=True)
        if kind not in kinds:
            return Clash(Kind.TYPE, path, described(written), described(read), is_total=True)
        return Clash(Kind.VALUE if "const" in written else Kind.BOUND, path, described(written), described(read))

    def _single(self, written: Schema, read: Schema, path: str) -> Iterator[Clash]:
        """Neither has alternatives."""
        kind, kinds = next(iter(_types(written))), _types(read)
        if kind not in kinds and not (kind == "integer" and "number" in kinds):
            told = Kind.NULL if kind == "null" else Kind.TYPE
            yield Clash(told, path, described(written), described(read), is_total=True)
            return
        values = _values(read)
        if values is not None:
            if "const" not in written or not any(_is_same(written["const"], value) for value in values):
                yield Clash(Kind.VALUE, path, described(written), described(read), is_total="const" in written)
            return
        if kind in ("integer", "number"):
            yield from _numbers(written, read, path)
        elif kind == "string":
            yield from _texts(written, read, path)
        elif kind == "array":
            yield from self._lists(written, read, path)
        elif kind == "object":
            yield from self._objects(written, read, path)

    # -- lists -------------------------------------------------------------------------------------------------------

    def _lists(self, written: Schema, read: Schema, path: str) -> Iterator[Clash]:
        if "const" in written:
            written = _schema_of(written["const"])
        least, most = written.get("minItems", 0), _most_items(written)
        if least < read.get("minItems", 0) or most > _most_items(read):
            yield Clash(Kind.BOUND, path, described(written), described(read))
        first, then = written.get("prefixItems", []), read.get("prefixItems", [])
        for place in range(max(len(first), len(then))):
            if place < most:
                inner = f"{path}[{place}]"
                found = self.clashes(_item(written, first, place), _item(read, then, place), inner)
                yield from found if place < least else _partly(found)
        if most > max(len(first), len(then)):
            yield from _partly(self.clashes(written.get("items", {}), read.get("items", {}), f"{path}[]"))

    # -- objects -----------------------------------------------------------------------------------------------------

    def _objects(self, written: Schema, read: Schema, path: str) -> Iterator[Clash]:
        if "const" in written:
            written = _schema_of(written["const"])
        known: set[str] = set()
        for name in dict.fromkeys([*read.get("properties", {}), *read.get("required", ())]):
            yield from self._field(written, read, name, path, known)
        yield from self._others(written, read, path, known)
        if _sizes_differ(written, read):
            yield Clash(Kind.BOUND, path, described(written), described(read))

    def _field(self, written: Schema, read: Schema, name: str, path: str, known: set[str]) -> Iterator[Clash]:
        inner, wanted = _joined(path, name), read.get("properties", {}).get(name, {})
        is_needed = name in read.get("required", ())
        found = None
        for place in [name, *read.get(ALSO, {}).get(name, [])]:
            steps = [place] if isinstance(place, str) else place
            known.add(str(steps[0]))
            found = found or self._followed(written, steps)
        if found is not None:
            is_sure, schema = found
            inside = self.clashes(schema, wanted, inner)
            yield from inside if is_sure else _partly(inside)
            if is_needed and not is_sure:
                yield Clash(Kind.MISSING, inner, "perhaps")
            return
        others = _additional(written)
        if others is not False:
            # The writer may write any field: also this one, with any value that it has.
            yield from _partly(self.clashes(others, wanted, inner))
        if is_needed:
            is_sure = others is False
            yield Clash(Kind.MISSING, inner, "" if is_sure else "perhaps", is_total=is_sure)
        elif others is False:
            yield Clash(Kind.DEFAULTED, inner)

    def _followed(self, written: Any, steps: Sequence[Any]) -> tuple[bool, Any] | None:
        """The schema at a place, and True if it is always written; None if the writer has no such field."""
        is_sure = True
        for step in steps:
            parts = _branches(_resolved(written, self._written), self._written)
            if len(parts) != 1:
                return None
            (written,) = parts
            if isinstance(step, int):
                is_sure = is_sure and written.get("minItems", 0) > step
                written = _item(written, written.get("prefixItems", []), step)
            elif step in written.get("properties", {}):
                is_sure = is_sure and step in written.get("required", ())
                written = written["properties"][step]
            else:
                return None
        return is_sure, written

    def _others(self, written: Schema, read: Schema, path: str, known: set[str]) -> Iterator[Clash]:
        """The fields that the reader does not name."""
        takes, patterns = read.get("additionalProperties", True), read.get("patternProperties", {})
        if read.get("propertyNames") not in (None, True, {}, written.get("propertyNames")):
            names: Any = {"enum": sorted(written.get("properties", {}))}
            if _additional(written) is not False:
                names = {"type": "string", **_resolved(written.get("propertyNames", {}), self._written)}
            if names.get("enum") != []:
                for clash in self.clashes(names, read["propertyNames"], ""):
                    yield Clash(Kind.BOUND, path, f"an object with names: {clash.written}", clash.read)
        if takes is True and not patterns:
            return
        for name, schema in written.get("properties", {}).items():
            if name not in known:
                found = self._other(schema, _wanted(name, takes, patterns), _joined(path, name))
                yield from found if name in written.get("required", ()) else _partly(found)
        additional = _additional(written)
        if additional is not False:
            own = written.get("patternProperties", {})
            if patterns and own.keys() != patterns.keys():
                yield Clash(Kind.BOUND, path, described(written), f"an object with names like {', '.join(patterns)}")
            wanted = next(iter(patterns.values())) if patterns else takes
            yield from _partly(self._other(additional, wanted, f"{path}.*"))

    def _other(self, schema: Any, wanted: Any, path: str) -> Iterator[Clash]:
        if wanted is False:
            yield Clash(Kind.REFUSED, path, described(_resolved(schema, self._written)), is_total=True)
        else:
            yield from self.clashes(schema, wanted, path)


def _partly(found: Iterable[Clash]) -> Iterator[Clash]:
    """The clashes of a part that not every event has."""
    return (replace(clash, is_total=False) for clash in found)


# -- schemas ---------------------------------------------------------------------------------------------------------


def _resolved(schema: Any, models: Mapping[str, Any]) -> Schema:
    """The schema itself, for a reference to it. Keywords beside a reference count as well."""
    if schema is True:
        return _ANYTHING
    if schema is False:
        return _NOTHING
    seen = set()
    while isinstance(schema.get("$ref"), str) and schema["$ref"] not in seen:
        seen.add(schema["$ref"])
        model = models.get(schema["$ref"].rpartition("/")[2], {})
        beside = {key: value for key, value in schema.items() if key != "$ref" and key not in _SILENT}
        schema = {**model, **beside} if beside else model
    if len(schema.get("allOf", ())) == 1:
        beside = {key: value for key, value in schema.items() if key != "allOf"}
        return {**_resolved(schema["allOf"][0], models), **beside}
    return schema  # type: ignore[no-any-return]


_ANYTHING: Schema = {}
_NOTHING: Schema = {"enum": []}


def _is_anything(schema: Schema) -> bool:
    return not {"type", "enum", "const", "anyOf", "oneOf"} & schema.keys()


def _is_strange(keyword: str) -> bool:
    return keyword not in _SILENT and (keyword not in _JUDGED or keyword == "allOf") and not keyword.startswith("x-")


def _branches(schema: Schema, models: Mapping[str, Any]) -> list[Schema]:
    """The alternatives of a schema, each without alternatives."""
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            beside = {key: value for key, value in schema.items() if key != keyword and key not in _SILENT}
            parts = [{**_resolved(part, models), **beside} if beside else part for part in schema[keyword]]
            return [branch for part in parts for branch in _branches(_resolved(part, models), models)]
    return [schema]


def _atoms(schema: Schema, models: Mapping[str, Any]) -> Iterator[Schema]:
    """The alternatives of what is written: each value of an enum, and each type, apart."""
    for branch in _branches(schema, models):
        values = _values(branch)
        if values is not None:
            yield from ({"type": _type_of(value), "const": value} for value in values)
            continue
        for kind in _types(branch):
            # A number is a whole number, or another one.
            yield branch if branch.get("type") == kind else {**branch, "type": kind}


def _types(schema: Schema) -> tuple[str, ...]:
    values = _values(schema)
    if values is not None:
        return tuple(dict.fromkeys(_type_of(value) for value in values))
    kinds = schema.get("type")
    if kinds is None:
        return tuple(kind for kind in _ALL if kind != "integer")
    return (kinds,) if isinstance(kinds, str) else tuple(kinds)


def _values(schema: Schema) -> Sequence[Any] | None:
    """The only values of a schema; None if it has other rules."""
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def _type_of(value: Any) -> str:
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    names = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _schema_of(value: Any) -> Schema:
    """The schema that only this list or object has."""
    if isinstance(value, list):
        return {
            "type": "array",
            "prefixItems": [{"const": part} for part in value],
            "minItems": len(value),
            "maxItems": len(value),
        }
    return {"type": "object", "properties": {key: {"const": part} for key, part in value.items()}, "required": [*value]}


def _is_alike(written: Schema, read: Schema, models: Mapping[str, Any]) -> bool:
    """True if this alternative is the one that is meant: the same type, and the same tag of a tagged union."""
    kind = next(iter(_types(written)), "")
    if kind not in _types(read) and not (kind == "integer" and "number" in _types(read)):
        return False
    theirs = read.get("properties", {})
    for name, schema in written.get("properties", {}).items():
        if "const" in schema and name in theirs:
            values = _values(_resolved(theirs[name], models))
            if values is not None and not any(_is_same(schema["const"], value) for value in values):
                return False
    return True


def _weight(found: Sequence[Clash]) -> tuple[int, int]:
    return sum(clash.is_fatal for clash in found), len(found)


# -- bounds ----------------------------------------------------------------------------------------------------------

#: The least and the largest number; each with True if it is one of them.
_End = tuple[float, bool]
_Reach = tuple[_End, _End]


def _numbers(written: Schema, read: Schema, path: str) -> Iterator[Clash]:
    step = read.get("multipleOf")
    if not _holds(_reach(read), _reach(written)) or (step is not None and not _is_multiple(written, step)):
        yield Clash(Kind.BOUND, path, described(written), described(read))


def _holds(outer: _Reach, inner: _Reach) -> bool:
    """True if all numbers of ``inner`` are in ``outer``."""
    (low, has_low), (high, has_high) = outer
    (least, has_least), (most, has_most) = inner
    is_above = least > low or (least == low and (has_low or not has_least))
    return is_above and (most < high or (most == high and (has_high or not has_most)))


def _reach(schema: Schema) -> _Reach:
    if "const" in schema:
        return (schema["const"], True), (schema["const"], True)
    lows = [(schema["minimum"], True)] if "minimum" in schema else []
    lows += [(schema["exclusiveMinimum"], False)] if "exclusiveMinimum" in schema else []
    highs = [(schema["maximum"], True)] if "maximum" in schema else []
    highs += [(schema["exclusiveMaximum"], False)] if "exclusiveMaximum" in schema else []
    least = max(lows, key=lambda end: (end[0], not end[1]), default=(-inf, True))
    most = min(highs, key=lambda end: (end[0], end[1]), default=(inf, True))
    if schema.get("type") == "integer":
        least, most = _whole(least, 1), _whole(most, -1)
    return least, most


def _whole(end: _End, step: int) -> _End:
    """The end of whole numbers: above 0 is from 1."""
    number, belongs = end
    if number in (inf, -inf):
        return end
    rounded = int(number // 1) if step < 0 else -int(-number // 1)
    return (rounded if belongs or rounded != number else rounded + step), True


def _is_multiple(written: Schema, step: float) -> bool:
    own = written.get("const", written.get("multipleOf"))
    if own is None:
        return step == 1 and written.get("type") == "integer"
    ratio = own / step
    return bool(abs(ratio - round(ratio)) < 1e-9)


def _texts(written: Schema, read: Schema, path: str) -> Iterator[Clash]:
    if "const" in written:
        if not _takes_text(written["const"], read):
            yield Clash(Kind.BOUND, path, described(written), described(read))
        return
    wanted = read.get("format")
    if wanted is not None and wanted != written.get("format"):
        yield Clash(Kind.FORMAT, path, described(written), described(read))
        return
    is_shorter = written.get("minLength", 0) >= read.get("minLength", 0)
    is_longer = written.get("maxLength", inf) > read.get("maxLength", inf)
    if not is_shorter or is_longer or read.get("pattern") not in (None, written.get("pattern")):
        yield Clash(Kind.BOUND, path, described(written), described(read))


def _takes_text(text: str, read: Schema) -> bool:
    """A format is not tried: nobody makes an enum of UUIDs."""
    if not read.get("minLength", 0) <= len(text) <= read.get("maxLength", inf) or "format" in read:
        return False
    with suppress(re.error):
        return "pattern" not in read or re.search(read["pattern"], text) is not None
    return False


def _most_items(schema: Schema) -> float:
    most: float = schema.get("maxItems", inf)
    return min(most, len(schema.get("prefixItems", ()))) if schema.get("items") is False else most


def _item(schema: Schema, first: Sequence[Any], place: int) -> Any:
    return first[place] if place < len(first) else schema.get("items", {})


def _additional(written: Schema) -> Any:
    """The schema of the fields that a writer writes beside its own; False if it writes none."""
    if written.get("patternProperties"):
        return {"anyOf": list(written["patternProperties"].values())}
    if "additionalProperties" in written:
        return written["additionalProperties"]
    # A model writes its fields, and no others. An object of which nothing is said may be any.
    return False if "properties" in written else {}


def _wanted(name: str, takes: Any, patterns: Mapping[str, Any]) -> Any:
    for pattern, schema in patterns.items():
        with suppress(re.error):
            if re.search(pattern, name):
                return schema
    return takes


def _sizes_differ(written: Schema, read: Schema) -> bool:
    names = written.get("properties", {})
    is_open = _additional(written) is not False
    least = max(written.get("minProperties", 0), len(written.get("required", ())))
    most = min(written.get("maxProperties", inf), inf if is_open else len(names))
    return bool(least < read.get("minProperties", 0) or most > read.get("maxProperties", inf))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
