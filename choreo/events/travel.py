"""
How the events of a class travel: how they are written, how they are read, and what has to be checked on the way.

All of it is decided once per class, by its core schema.

*Reading.* An event arrives as JSON, and is read by pydantic's rules for JSON: a strict field takes a UUID as a text.
Its data has been parsed before. For most classes the rules for Python objects give the same, and are faster.

*Checking.* An event that its own class cannot read back must not leave: it would be confirmed, and then become a dead
letter of every handler. What the class shows is refused when it is declared: see `choreo.events.faults`. For most
classes that is all. An event of any other, such as one with a validator of the user's, is read back before it leaves.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, Flag
from math import isfinite
from reprlib import Repr
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from choreo.events.defaults import fault_of_defaults
from choreo.events.faults import fault_of
from choreo.events.message import compact
from choreo.events.redaction import MASK, marks_of
from choreo.events.schema import Node, Schema, is_own_serializer, is_pydantics, nodes

_shortener = Repr()
_shortener.maxstring = _shortener.maxother = 100
_brief = _shortener.repr

#: The attribute of a class in which its way is kept. Not a cache: that would keep the class.
_KEPT = "__choreo_way__"

#: Kinds of which JSON and Python objects are read alike, unless they are strict.
_ALIKE = frozenset(
    "any bool bytes chain custom-error dataclass dataclass-args dataclass-field date datetime decimal default "
    "definition-ref definitions deque dict enum float frozenset function-after function-before function-plain "
    "function-wrap int lax-or-strict list literal model model-field model-fields multi-host-url none nullable set str "
    "tagged-union time timedelta tuple typed-dict typed-dict-field url uuid".split()
)
#: Kinds of which every value can be read back as it was.
_SURE = frozenset(
    "bool bytes dataclass-args dataclass-field date datetime decimal default definition-ref definitions dict enum "
    "float frozenset int list literal model model-field model-fields none nullable set str tagged-union time timedelta "
    "tuple typed-dict typed-dict-field uuid".split()
)
#: Kinds of values that are the same in JSON.
_SCALARS = frozenset("bool float int none str".split())
#: Kinds of keys of a table that can be read back: in JSON every key is a text.
_KEYS = frozenset("date int str uuid".split())


#: Factories of defaults that are known to make what they say. Pydantic does not check what any other one makes.
_FACTORIES = (list, dict, set, frozenset, tuple, str, int, uuid4)


class Way:
    """How the events of a class, or the instances of a view, travel."""

    __slots__ = ("fault", "is_checked", "read", "shown", "unions", "write")

    #: Callback: reads the data of an event, as JSON values. Raises `pydantic.ValidationError`.
    read: Callable[[Any], Any]
    #: Callback: writes an instance as JSON values. Raises the errors of serializers.
    write: Callable[[Any], dict[str, Any]]
    #: Why no instance can be read back, and the way out; "" if instances can.
    fault: str
    #: True if each instance has to be read back before it leaves.
    is_checked: bool
    #: Callback: shortens a value for the text of an error, or hides it.
    shown: Callable[[Any], str]
    #: The fields in which a value may come back as one of another type.
    unions: frozenset[str]

    def __init__(self, cls: type[BaseModel]) -> None:
        known = list(nodes(cls.__pydantic_core_schema__))
        validator: Any = cls.__pydantic_validator__
        self.read = validator.validate_python if all(map(_is_alike, known)) else _reading_json(validator)
        is_plain = cls.model_dump is BaseModel.model_dump
        self.write = _writing(cls) if is_plain else _dumped
        models = dict.fromkeys([cls, *(node.schema["cls"] for node in known if node.kind == "model")])
        faults = (fault_of_defaults(model, cls.__name__) for model in models)
        self.fault = fault_of(cls.__name__, known) or next(filter(None, faults), "")
        self.is_checked = bool(self.fault) or not (is_plain and all(map(_is_sure, known)))
        self.unions = frozenset(_unions(known))
        self.shown = _hidden if marks_of(cls) else _brief

    def fault_of(self, event: BaseModel, data: dict[str, Any]) -> str:
        """
        Why this event cannot be read back from its data, and the way out; "" if it can.

        A field may come back changed only if its class says so, by a serializer of its own or as `typing.Any`. Of a
        class with redacted fields no value is told.
        """
        if self.fault:
            return self.fault
        try:
            back = self.read(data)
        except ValidationError as error:
            return f"its own class does not read it back: {faults_of(error)}. {_WAY_OUT}"
        except Exception as error:  # of a validator of the class
            return f"its own class does not read it back: {type(error).__name__}: {self.shown(error)}. {_WAY_OUT}"
        if back == event and back.__pydantic_extra__ == event.__pydantic_extra__:
            return ""
        if field := _not_finite(event):
            return f"{field} holds NaN or an infinite number, which JSON has not. Announce None, or a text."
        return self._changed(data, self.write(back)) or self._confused(event, back)

    def _changed(self, data: dict[str, Any], again: dict[str, Any]) -> str:
        for name, written in data.items():
            if written != again.get(name):
                return (
                    f"{name} is written as {self.shown(written)}, and would be written as "
                    f"{self.shown(again.get(name))} once it is read back. {_WAY_OUT}"
                )
        return ""

    def _confused(self, event: BaseModel, back: BaseModel) -> str:
        for name in sorted(self.unions):
            was, now = getattr(event, name, None), getattr(back, name, None)
            if was != now:
                return (
                    f"{name} is {self.shown(was)} ({type(was).__name__}), and is read back as {self.shown(now)} "
                    f"({type(now).__name__}): in JSON these types of the field look alike. Annotate it with one type, "
                    f"or with a discriminated union of models."
                )
        return ""


_WAY_OUT = "Let its validators read what its serializers write, or annotate the field with a type that JSON has."


def way_of(cls: type[BaseModel]) -> Way:
    """The way of a class. It is found once; for a class with a type that is not defined yet, each time."""
    way: Way | None = cls.__dict__.get(_KEPT)
    if way is not None:
        return way
    if not cls.__pydantic_complete__:
        cls.model_rebuild()  # raises PydanticUserError
    way = Way(cls)
    setattr(cls, _KEPT, way)
    return way


def _unions(known: list[Node]) -> Iterator[str]:
    holders = {node.holder for node in known if node.kind == "union" and not node.is_rewritten}
    yield from holders - {""}
    if "" in holders:  # in a definition, which several fields may refer to
        yield from (node.holder for node in known if node.kind == "definition-ref" and node.holder)


def _reading_json(validator: Any) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        try:
            text = to_json(data, inf_nan_mode="constants")
        except ValueError:  # half a surrogate pair: pydantic names it
            text = compact(data).encode(errors="surrogatepass")
        return validator.validate_json(text)

    return read


def _writing(cls: type[BaseModel]) -> Callable[[Any], dict[str, Any]]:
    """What `BaseModel.model_dump` does, without its calls."""
    to_python = cls.__pydantic_serializer__.to_python
    # Not with `warnings="error"`, which would find values of other types: it costs more than the rest.
    return lambda event: to_python(event, mode="json", by_alias=True)


def _hidden(_: object) -> str:
    return MASK


def _dumped(event: Any) -> dict[str, Any]:
    # The class has a `model_dump` of its own.
    return event.model_dump(mode="json", by_alias=True)  # type: ignore[no-any-return]


def _is_alike(node: Node) -> bool:
    """True if pydantic reads JSON, and the Python objects that it is parsed into, alike."""
    schema, kind = node.schema, node.kind
    if schema.get("strict") or (kind != "lax-or-strict" and node.config.get("strict")):
        return False
    if kind == "union":
        return _is_of_scalars(schema)
    if kind == "bytes":
        return bool(node.config.get("val_json_bytes", "utf8") == "utf8")
    if kind.startswith("function-"):
        # A function may ask the info for the mode.
        return schema["function"]["type"] == "no-info" or is_pydantics(schema["function"]["function"])
    return kind in _ALIKE


def _is_sure(node: Node) -> bool:
    """True if every value of this kind can be read back as it was."""
    schema, kind = node.schema, node.kind
    if is_own_serializer(schema) or any(name.startswith(("ser_", "val_")) for name in schema.get("config", ())):
        return False
    if kind == "union":
        return _is_of_scalars(schema)
    check = _CHECKS.get(kind)
    return kind in _SURE and (check is None or check(schema))


def _is_of_scalars(schema: Schema) -> bool:
    choices = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
    return all(choice["type"] in _SCALARS for choice in choices)


def _has_keys(schema: Schema) -> bool:
    keys = schema.get("keys_schema", {}).get("type")
    return keys in _KEYS and "values_schema" in schema


def _is_json(values: Iterable[Any]) -> bool:
    return all(type(value) in (str, int, bool, type(None)) for value in values)


def _has_items(schema: Schema) -> bool:
    return "items_schema" in schema


def _is_plain_model(schema: Schema) -> bool:
    config = schema.get("config", {})
    return not (schema.get("custom_init") or schema.get("post_init") or config.get("extra_fields_behavior") == "allow")


def _is_plain_enum(schema: Schema) -> bool:
    members: list[Enum] = schema["members"]
    return not issubclass(schema["cls"], Flag) and _is_json(member.value for member in members)


#: Kind → callback: True for a node of which every value can be read back.
_CHECKS: dict[str, Callable[[Schema], bool]] = {
    "dict": _has_keys,
    "list": _has_items,
    "set": _has_items,
    "frozenset": _has_items,
    "tuple": _has_items,
    "default": lambda schema: "default_factory" not in schema or schema["default_factory"] in _FACTORIES,
    "literal": lambda schema: _is_json(schema["expected"]),
    "enum": _is_plain_enum,
    "model": _is_plain_model,
    "model-fields": lambda schema: schema.get("extra_behavior") != "allow",
    "typed-dict": lambda schema: schema.get("extra_behavior") != "allow",
    "model-field": lambda schema: "serialization_exclude_if" not in schema,
    "tagged-union": lambda schema: isinstance(schema["discriminator"], str),
}


def faults_of(error: ValidationError) -> str:
    """What does not fit, in one line, without the data: it is shown in logs and lists."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"]])) for one in faults)


def _not_finite(event: BaseModel) -> str:
    """The field that holds NaN or an infinite number, and is written as null or not as JSON; "" if there is none."""
    values = {**event.__dict__, **(event.__pydantic_extra__ or {})}
    return next((name for name, value in values.items() if _is_not_finite(value, set())), "")


def _is_not_finite(value: Any, seen: set[int]) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, BaseModel):
        return any(_is_not_finite(part, seen) for part in value.__dict__.values())
    if isinstance(value, Mapping):
        return any(_is_not_finite(part, seen) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_is_not_finite(part, seen) for part in value)
    return False
