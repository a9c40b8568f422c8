"""Whether what is written fits what is read. Two other judges are asked: jsoncompat, and the validator jsonschema."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import AliasChoices, AliasPath, BaseModel, Field

from choreo.schemas.fit import clashes, fits
from choreo.schemas.shape import read, written

Schema = dict[str, Any]
NAMES = ("a", "b", "c")


def bounded(kind: str, low: str, high: str) -> st.SearchStrategy[Schema]:
    ends = st.fixed_dictionaries({}, optional={low: st.integers(0, 2), high: st.integers(3, 5)})
    return ends.map(lambda bounds: {"type": kind, **bounds})


SCALARS = st.one_of(
    bounded("integer", "minimum", "maximum"),
    bounded("number", "exclusiveMinimum", "maximum"),
    bounded("string", "minLength", "maxLength"),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "integer", "const": 1}]),
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(lambda values: {"type": "string", "enum": values}),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    fields = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=3))
    required = [name for name in fields if draw(st.booleans())]
    closed = {"additionalProperties": False} if draw(st.integers(0, 4)) == 0 else {}
    return {"type": "object", "properties": fields, "required": required, **closed}


def nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    lists = st.tuples(inner, bounded("array", "minItems", "maxItems")).map(lambda pair: {"items": pair[0], **pair[1]})
    tuples = st.lists(inner, min_size=1, max_size=2).map(
        lambda parts: {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    )
    maps = inner.map(lambda values: {"type": "object", "additionalProperties": values})
    unions = st.lists(inner, min_size=2, max_size=3).map(lambda parts: {"anyOf": parts})
    return st.one_of(objects(inner), lists, tuples, maps, unions)


SCHEMAS = st.recursive(SCALARS, nested, max_leaves=5)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Schema, Schema]:
    """What is written, and what is read: mostly the same but for one field."""
    old = draw(objects(SCHEMAS))
    if draw(st.booleans()):
        return old, draw(objects(SCHEMAS))
    name = draw(st.sampled_from(NAMES))
    return old, {**old, "properties": {**old["properties"], name: draw(SCHEMAS)}}


def closed(schema: Any) -> Any:
    """As a writer's is: it writes its fields, and no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(part) for name, part in schema.items()}
    return {**found, "additionalProperties": False} if isinstance(schema.get("properties"), dict) else found


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """What a writer with this schema writes."""
    if "anyOf" in schema:
        return st.one_of(map(values, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    kind = schema["type"]
    if kind == "array" and "prefixItems" in schema:
        return st.tuples(*map(values, schema["prefixItems"])).map(list)
    if kind == "array":
        return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema.get("maxItems", 4))
    if kind == "object" and "properties" in schema:
        fields = {name: values(part) for name, part in schema["properties"].items()}
        needed = {name: fields[name] for name in schema["required"]}
        return st.fixed_dictionaries(needed, optional={name: fields[name] for name in fields if name not in needed})
    if kind == "object":
        return st.dictionaries(st.sampled_from("abcd"), values(schema["additionalProperties"]), max_size=3)
    return {
        "integer": st.integers(schema.get("minimum", -9), schema.get("maximum", 9)),
        "number": st.floats(
            schema.get("exclusiveMinimum", -9), schema.get("maximum", 9), exclude_min="exclusiveMinimum" in schema
        ),
        "string": st.text("abc", min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 6)),
        "boolean": st.booleans(),
        "null": st.none(),
    }[kind]


@given(pairs(), st.data())
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_a_reader_takes_whatever_a_writer_writes_that_fits(pair, data):
    what, how = pair

    if fits(what, how):
        value = data.draw(values(what))
        assert Draft202012Validator(how).is_valid(value), value


@given(pairs())
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_the_verdict_is_that_of_another_judge(pair):
    jsoncompat = pytest.importorskip("jsoncompat")
    what, how = closed(pair[0]), pair[1]

    assert fits(what, how) == jsoncompat.check_compat(json.dumps(what), json.dumps(how), "deserializer")


class Item(BaseModel):
    sku: str
    price: int = Field(gt=0)


class Node(BaseModel):
    name: str
    children: list["Node"] = []


class Cat(BaseModel):
    kind: str = "cat"
    lives: int


def found(what: type[BaseModel], how: type[BaseModel]) -> list[str]:
    return [clash.text for clash in clashes(written(what), read(how))]


@pytest.mark.parametrize(
    ("what", "how", "is_read"),
    [
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 2}, False),
        ({"type": "string", "maxLength": 2}, {"type": "string", "maxLength": 3}, True),
        ({"type": "string"}, {"type": "string", "maxLength": 3}, False),
        ({"type": "string", "minLength": 1}, {"type": "string", "minLength": 2}, False),
        ({"type": "string", "format": "uuid"}, {"type": "string"}, True),
        ({"type": "string"}, {"type": "string", "format": "uuid"}, False),
        ({"type": "string", "pattern": "^A"}, {"type": "string", "pattern": "^B"}, False),
        ({"enum": ["A1"]}, {"type": "string", "pattern": "^A"}, True),
        ({"type": "integer", "minimum": 1}, {"type": "integer", "exclusiveMinimum": 0}, True),
        ({"type": "integer"}, {"type": "integer", "multipleOf": 2}, False),
        ({"type": "integer", "multipleOf": 4}, {"type": "integer", "multipleOf": 2}, True),
        ({"type": "array", "items": {}, "maxItems": 3}, {"type": "array", "items": {}, "maxItems": 2}, False),
        ({"type": "array", "items": {"type": "null"}}, {"type": "array", "uniqueItems": True}, True),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "object", "required": ["a"]}, False),
        ({"type": "boolean"}, {"type": "integer"}, False),
        ({"const": True}, {"const": 1}, False),
        ({"const": 1.0}, {"type": "integer"}, True),
    ],
)
def test_a_value_fits_or_not(what, how, is_read):
    assert fits(what, how) == is_read


def test_a_class_reads_what_it_writes():
    class Order(BaseModel):
        items: list[Item]
        tree: Node
        cat: Cat | Item | None = None

    assert not found(Order, Order)
    assert not found(Node, Node)


def test_a_clash_names_the_field_and_what_both_sides_say():
    class Old(BaseModel):
        items: list[Item]

    class New(BaseModel):
        class Sold(BaseModel):
            sku: int
            price: int = Field(gt=10)

        items: list[Sold]

    assert found(Old, New) == [
        "items[].price is written as a whole number above 0 and read as a whole number above 10",
        "items[].sku is written as a text and read as a whole number",
    ]
    assert [clash.is_total for clash in clashes(written(Old), read(New))] == [False, False], "a list may be empty"


def test_a_field_is_found_under_each_of_its_names():
    class Old(BaseModel):
        total: int
        address: dict[str, str]

    class New(BaseModel):
        cents: int = Field(validation_alias=AliasChoices("total_cents", "total"))
        street: str = Field("", validation_alias=AliasPath("address", "street"))

    assert not [clash for clash in clashes(written(Old), read(New)) if clash.is_fatal]


def test_what_a_class_does_not_write_is_missing():
    class Odd(BaseModel):
        total: int = Field(exclude=True)

    assert found(Odd, Odd) == ["total is read and never written"]


def test_a_keyword_that_is_not_judged_is_no_pass():
    how = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    what = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}

    (clash,) = clashes(what, how)

    assert (clash.kind, clash.path) == ("unjudged", "a")


def test_anything_is_read_by_whoever_takes_anything():
    class Any1(BaseModel):
        a: Any

    class Text(BaseModel):
        a: str

    assert not found(Any1, Any1)
    assert not found(Text, Any1)
    assert found(Any1, Text) == ["a is written as anything and read as a text"]
