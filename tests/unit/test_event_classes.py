"""Whatever class of events is declared: what leaves can be read as it was, and all else is refused before it leaves."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kombu import Connection, Exchange
from pydantic import (
    AfterValidator,
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    FutureDatetime,
    HttpUrl,
    Json,
    PastDate,
    PlainSerializer,
    SecretStr,
    create_model,
)
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from choreo import DeclarationError, Envelope, Event, InvalidEventError
from choreo.broker.publisher import Publisher
from tests.unit.events import NOON

T = TypeVar("T")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mark(IntFlag):
    OLD = 1
    SOLD = 2


class Pair(Enum):
    ONE = (1, 2)


class Line(BaseModel):
    sku: str
    price: Decimal | None = None


class Labelled(BaseModel):
    name: str = Field(alias="theName")


class Odd(BaseModel):
    name: str = Field(serialization_alias="theName")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    id: UUID


class Wrong(BaseModel):
    count: int = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    age: int = 1


class Page(BaseModel, Generic[T]):
    items: list[T]


class Tree(BaseModel):
    children: list["Tree"] = []


class Place(TypedDict):
    city: str


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Box:
    width: int


class Opaque:
    pass


moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))
lines = st.builds(Line, sku=st.text(max_size=3), price=st.none() | st.decimals(0, 9, places=2))
texts = st.text(max_size=5)
numbers = st.integers(-5, 5)
odd = st.one_of(
    texts, numbers, st.floats(), st.just(Decimal("1.5")), st.just({1, 2}), st.just(b"text"), lines, st.just({1: 2})
)


def to_cents(value: Any) -> Any:
    return round(float(value.removesuffix(" EUR")) * 100) if isinstance(value, str) else value


#: Annotation → its values. Those in `LOOSE` say that a value may come back as another one.
MENU: dict[Any, Any] = {
    bool: st.booleans(),
    int: st.integers(),
    str: texts,
    float: st.floats(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    UUID: st.uuids(),
    datetime: moments | st.datetimes(),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(timedelta(days=-999), timedelta(days=999)),
    Base64Bytes: st.just(b"dGV4dA=="),
    bytes: st.just(b"text"),
    Color: st.sampled_from(Color),
    Level: st.sampled_from(Level),
    Mark: st.just(Mark.OLD | Mark.SOLD),
    Pair: st.just(Pair.ONE),
    Literal["a", 1, None]: st.sampled_from(["a", 1, None]),
    Literal[Color.RED]: st.just(Color.RED),
    SecretStr: st.just("secret"),
    Json[list[int]]: st.just("[1]"),
    HttpUrl: st.just("https://choreo.dev/a?b=c"),
    Path: st.just("/tmp/a"),
    IPv4Address: st.just("127.0.0.1"),
    ByteSize: st.just("3KB"),
    PastDate: st.dates(max_value=date(2020, 1, 1)),
    FutureDatetime: st.just(datetime(2999, 1, 1)),
    Annotated[int, Field(ge=0, le=10)]: st.integers(0, 10),
    Annotated[str, Field(pattern="^a")]: st.just("ab"),
    Line: lines,
    Labelled: st.just({"theName": "x"}),
    Odd: st.just({"name": "x"}),
    Strict: st.builds(Strict, id=st.uuids()),
    Wrong: st.builds(Wrong),
    Tree: st.just({"children": [{"children": []}]}),
    Page[int]: st.just({"items": [1]}),
    Place: st.just({"city": "Rome"}),
    Point: st.just((1, 2)),
    Box: st.just(Box(3)),
    type: st.just(int),
    Opaque: st.builds(Opaque),
    int | str: numbers | texts,
    datetime | str: moments | texts,
    date | datetime: st.dates() | moments,
    Decimal | float: st.just(Decimal("1.5")) | st.floats(),
    UUID | str: st.uuids() | texts,
    Cat | Dog: st.builds(Cat) | st.builds(Dog),
    Line | Labelled: lines | st.just({"theName": "x"}),
    Annotated[Cat | Dog, Field(discriminator="kind")]: st.builds(Cat) | st.builds(Dog),
    Annotated[list[str], BeforeValidator(lambda text: text.split(","))]: st.just("a,b"),
    Annotated[int, AfterValidator(lambda value: value * 2)]: numbers,
    Annotated[str, AfterValidator(str.strip)]: texts,
}
LOOSE: dict[Any, Any] = {
    Any: odd,
    object: odd,
    dict: st.dictionaries(texts | numbers, odd, max_size=2),
    list: st.lists(odd, max_size=2),
    Open: st.builds(Open, more=odd),
    Annotated[int, PlainSerializer(lambda value: f"{value / 100} EUR")]: numbers,
    Annotated[int, BeforeValidator(to_cents), PlainSerializer(lambda value: f"{value / 100} EUR")]: numbers,
}
CONTAINERS: list[Any] = [
    (lambda one: one, lambda values: values),
    (lambda one: one, lambda values: values),
    (lambda one: one | None, lambda values: st.none() | values),
    (lambda one: list[one], lambda values: st.lists(values, max_size=2)),
    (lambda one: set[one], lambda values: st.lists(values, max_size=2)),
    (lambda one: frozenset[one], lambda values: st.lists(values, max_size=2)),
    (lambda one: tuple[one, ...], lambda values: st.lists(values, max_size=2)),
    (lambda one: tuple[one, int], lambda values: st.tuples(values, numbers)),
    (lambda one: deque[one], lambda values: st.lists(values, max_size=2)),
    (lambda one: Sequence[one], lambda values: st.lists(values, max_size=2)),
    (lambda one: Mapping[str, one], lambda values: st.dictionaries(texts, values, max_size=2)),
    (lambda one: dict[str, one], lambda values: st.dictionaries(texts, values, max_size=2)),
    (lambda one: dict[one, int], lambda values: st.lists(st.tuples(values, numbers), max_size=2)),
]
CONFIGS: dict[str, list[Any]] = {
    "strict": [True],
    "extra": ["allow", "forbid"],
    "populate_by_name": [True],
    "use_enum_values": [True],
    "ser_json_bytes": ["base64"],
    "val_json_bytes": ["base64"],
    "ser_json_timedelta": ["float"],
    "ser_json_inf_nan": ["strings", "constants"],
    "str_strip_whitespace": [True],
    "coerce_numbers_to_str": [True],
    "validate_default": [True],
}
FIELDS: list[dict[str, Any]] = [
    *[{}] * 4,
    {"alias": "theField"},
    {"alias": "theField", "validation_alias": "aField"},
    {"serialization_alias": "theField"},
    {"validation_alias": "theField"},
    {"exclude": True},
]


@st.composite
def fields(draw: st.DrawFn) -> tuple[Any, Any, dict[str, Any], bool]:
    annotation = draw(st.sampled_from([*MENU, *LOOSE]))
    values, is_loose = (MENU | LOOSE)[annotation], annotation in LOOSE
    contained, containing = draw(st.sampled_from(CONTAINERS))
    options = draw(st.sampled_from(FIELDS))
    value = draw(containing(values))
    if contained(int) == dict[int, int]:
        try:
            value = dict(value)
        except TypeError:
            value = {}
    return contained(annotation), value, options, is_loose


configs = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in CONFIGS.items()})
publisher = Publisher(lambda: Connection("memory://"), Exchange("choreo", type="topic"))


def made(config: dict[str, Any], field: tuple[Any, Any, dict[str, Any], bool], default: Any) -> type[Event]:
    annotation, _, options, _ = field
    base = type(Event)(
        "Base",
        (Event,),
        {"model_config": ConfigDict(arbitrary_types_allowed=True, **config), "__module__": __name__},
        abstract=True,
    )
    told = Field(**options) if default is ... else Field(default, **options)
    return create_model("ThingHappened", __base__=base, field=(annotation, told), __module__=__name__)


def announced(event: Event) -> Envelope | None:
    """The event as a handler gets it. None: it was refused, by its name."""
    try:
        message = publisher.message_for(event.sealed(id="e-1", source="test", subject=None, cause=None, time=NOON))
    except InvalidEventError as refused:
        return _named(refused)
    return Envelope.from_wire(json.loads(message.body)[0][0])


def _named(refused: Exception) -> None:
    assert "ThingHappened" in str(refused) or "thing.happened" in str(refused)


@settings(max_examples=2 * settings().max_examples)
@given(configs, fields(), st.sampled_from([..., ..., None]), st.booleans())
def test_what_leaves_can_be_read_as_it_was(config, field, default, is_given):
    _, value, options, is_loose = field
    try:
        cls = made(config, field, default)
    except DeclarationError as refused:
        return _named(refused)
    except (PydanticUserError, TypeError, ValueError, NotImplementedError):
        assume(False)  # pydantic itself refuses the class
    name = options.get("validation_alias", options.get("alias", "field"))
    try:
        event = cls.model_validate({name: value} if is_given or default is ... else {})
    except Exception:  # also of the validators above
        assume(False)

    received = announced(event)

    if received is None:
        return None
    back = cls.read(received)
    assert back == cls.model_validate_json(json.dumps(received.data))
    again = back.model_dump(mode="json", by_alias=True, warnings=False)
    # What a union read as its other type may be written otherwise, and says the same: the key 1e+16 as 1E+16.
    assert again == received.data or (is_loose and cls.model_validate_json(json.dumps(again)) == back)
    if not is_loose and not options.get("exclude"):
        assert (back.field, type(back.field)) == (event.field, type(event.field))
    return None
