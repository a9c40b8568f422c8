"""Events: facts with typed fields."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from reprlib import Repr
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from choreo.errors import DeclarationError, InvalidEventError, NotAnnouncedError
from choreo.events import naming
from choreo.events.bytes_fields import bytes_field_of
from choreo.events.envelope import READABLE_BY, Envelope, EnvelopeDraft
from choreo.events.redaction import REDACTED, is_shown, marks_of
from choreo.events.travel import way_of
from choreo.events.upcast import Upcast, checked_readable_by, checked_upcasters, data_for
from choreo.events.wire_names import wire_names

_shortener = Repr()
_shortener.maxstring = _shortener.maxother = 200
_brief = _shortener.repr

_NO_BYTES = (
    "Events travel as JSON, which has no bytes: annotate the field with pydantic.Base64Bytes, or announce where the "
    "data is."
)

#: The options of the class line.
_OPTIONS = frozenset("type version upcasters readable_by fact foreign abstract".split())

#: Attributes of `Event`. No field can have one of these names.
_OWN_NAMES = frozenset(
    "meta about sealed read event_type event_version event_upcasters event_readable_by event_foreign".split()
)


class Event(BaseModel):
    """
    A fact that a service announces: something that has happened. Subclass it, and name the class in the past tense.

        >>> class OrderPlaced(Event):
        ...     customer_id: str
        ...     total_cents: int
        >>> OrderPlaced.event_type
        'order.placed'

    The class line takes these options:

    - ``type="order.placed"`` replaces the type that is derived from the class name.
    - ``version=2`` is the version of the fields, from 1. Raise it when code that knows the old fields cannot read the
      new ones.
    - ``upcasters=[Upcast(1, renamed={"total": "total_cents"})]`` say how the class reads older versions: see
      `choreo.Upcast`. An event of a version that a handler cannot read becomes a dead letter.
    - ``readable_by=1`` is the oldest version whose code can read this one as it is. Its handlers then take the events.
    - ``fact=True`` accepts a name that reads like a command. Without it ``ChargePayment`` raises `EventNameError`.
    - ``foreign="Shop.OrderPlaced"`` is the type under which another program sends the event; a tuple names several.
      Handlers hear it as this event: `Envelope.foreign_type` tells the type that it had.
    - ``abstract=True`` makes a base class for events. It has no type and cannot be announced.

    Raises `DeclarationError` for any other option, for a gap between the versions of upcasters, for a field with the
    name of one of `Event`'s own attributes, and for a field of bytes without an encoding (`pydantic.Base64Bytes` has
    one).

    Events are immutable. Fields that the class does not know are ignored.
    Two events are equal if they are of one class and have equal fields. The metadata does not count.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: The type under which the event travels, such as ``order.placed``. Not set on abstract classes.
    event_type: ClassVar[str]
    #: The version of the event's fields, from 1.
    event_version: ClassVar[int] = 1
    #: What makes this version of older ones, the oldest first.
    event_upcasters: ClassVar[tuple[Upcast, ...]] = ()
    #: The oldest version whose code can read this one as it is. 0: none.
    event_readable_by: ClassVar[int] = 0
    #: The types under which other programs send this event.
    event_foreign: ClassVar[tuple[str, ...]] = ()

    # Slots, not pydantic's private attributes: pydantic sets those with one Python call per class in the hierarchy.
    __slots__ = ("_meta", "_subject")
    if TYPE_CHECKING:
        _meta: Envelope = PrivateAttr()
        _subject: str = PrivateAttr()

    def __init_subclass__(cls, **options: Any) -> None:
        """
        Hand all options but the event's own on to the other bases of the class, such as a mixin or `typing.Generic`.

        `__pydantic_init_subclass__` reads the event's own, when the fields are known.
        """
        others = {name: value for name, value in options.items() if name not in _OPTIONS}
        try:
            super().__init_subclass__(**others)
        except TypeError as error:
            if not others:
                raise
            raise DeclarationError(
                f"class {cls.__name__}(Event, {next(iter(others))}=...): an event takes type, version, "
                f"upcasters, readable_by, fact, foreign and abstract."
            ) from error

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        type: str | None = None,  # noqa: A002 - the word users write in the class line
        version: int = 1,
        upcasters: Iterable[Upcast] = (),
        readable_by: int | None = None,
        fact: bool = False,
        foreign: str | tuple[str, ...] = (),
        abstract: bool = False,
        **others: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**others)
        if taken := sorted(_OWN_NAMES & cls.model_fields.keys()):
            raise DeclarationError(f"{cls.__name__}.{taken[0]}: this name is the event's own. Rename the field.")
        if field := bytes_field_of(cls):
            raise DeclarationError(f"{cls.__name__}.{field}: {_NO_BYTES}")
        _check_base(cls, type, abstract=abstract)
        if abstract:
            return
        if cls.__pydantic_complete__ and (fault := way_of(cls).fault):
            raise DeclarationError(fault)
        if cls.__pydantic_generic_metadata__["origin"] is not None:
            return  # PageRead[int] is PageRead, with a type for its fields: it travels under the same type
        if not isinstance(version, int) or version < 1:
            raise DeclarationError(f"{cls.__name__}: version is {version!r}, not a number from 1.")
        event_type = type if type is not None else naming.type_of(cls.__name__)
        naming.check_type(event_type)
        checked = checked_upcasters(cls.__name__, upcasters, version, _read_names(cls))
        cls.event_readable_by = checked_readable_by(cls.__name__, readable_by, version)
        cls.event_foreign = naming.foreign_names(foreign, cls.__name__)
        if not fact:
            naming.check_fact(cls.__name__, _words(cls.__name__, type))
        # At last: a class without a type is no event, so a class that was refused is not known.
        cls.event_type, cls.event_version, cls.event_upcasters = event_type, version, checked

    @property
    def meta(self) -> Envelope:
        """
        The envelope of this event: its id, type, source, subject, time, correlation id and causation id.

        An event that a handler receives has one. Raises `NotAnnouncedError` on any other event.
        """
        meta: Envelope | None = _slot(self, "_meta")
        if meta is None:
            raise NotAnnouncedError(
                f"This {type(self).__name__} has no metadata: it has not been announced. In a test, give it some: "
                f'choreo.testing.announced({type(self).__name__}(...), subject="ORD-1").'
            )
        return meta

    def about(self, subject: str) -> Self:
        """Return a copy that is about this subject. It goes before the subject of the cause and that of `publish`."""
        copy = self.model_copy()
        copy._subject = subject
        return copy

    def sealed(
        self,
        *,
        id: str,  # noqa: A002
        source: str,
        subject: str | None,
        cause: Envelope | None,
        time: datetime,
        extensions: dict[str, Any] | None = None,
    ) -> Envelope:
        """
        Return the envelope of this event.

        Its subject is the one of `about`, else ``subject``, else that of ``cause``, else ''. Its correlation id is
        that of ``cause``, else ``id``. Its hops are one more than those of ``cause``, else 0. ``extensions`` are its
        further attributes. Raises `InvalidEventError` when the subject is not a text, or a field cannot be written as
        JSON.
        """
        about = _slot(self, "_subject")
        if about is None:
            about = subject
        if about is None:
            about = cause.subject if cause else ""
        if not isinstance(about, str):
            raise InvalidEventError(f"the subject of an event is a text, such as 'ORD-1', not {_brief(about)}")
        made = EnvelopeDraft()
        made.id, made.type, made.source, made.subject, made.time = id, self.event_type, source, about, time
        made.correlation_id, made.causation_id = (cause.correlation_id, cause.id) if cause else (id, None)
        made.hops = cause.hops + 1 if cause else 0
        made.version, made.data, made.extensions, made.replay = self.event_version, self._dumped(), extensions or {}, ""
        if marks := marks_of(type(self)):
            made.extensions = {**made.extensions, REDACTED: marks}
        if self.event_readable_by:
            made.extensions = made.extensions | {READABLE_BY: self.event_readable_by}
        made.__class__ = Envelope
        return made  # type: ignore[no-any-return]

    def _dumped(self) -> dict[str, Any]:
        way = way_of(type(self))
        try:
            data = way.write(self)
        except Exception as error:  # pydantic's own, or any that a serializer of the class raises
            raise InvalidEventError(self._fault(error)) from error
        if way.is_checked:
            self._check(data)
        return data

    def _check(self, data: dict[str, Any]) -> None:
        """Raise `InvalidEventError` unless the class reads this event back from its data."""
        if fault := way_of(type(self)).fault_of(self, data):
            raise InvalidEventError(f"{type(self).__name__} cannot be announced: {fault}")

    def _check_unvalidated(self) -> None:
        """The same for an event whose values pydantic has not validated."""
        try:
            data = BaseModel.model_dump(self, mode="json", by_alias=True, warnings=False)
        except Exception as error:
            raise InvalidEventError(self._fault(error)) from error
        self._check(data)

    def _fault(self, error: Exception) -> str:
        """Why this event cannot be written as JSON: the field, its value, and the way out."""
        cls = type(self)
        for name in (*cls.model_fields, *cls.model_computed_fields):
            try:
                self.model_dump(mode="json", include={name})
            except Exception as fault:
                what = f"{cls.__name__}.{name} cannot be announced: {_shortened(fault)}"
                value = self.__dict__.get(name)
                told = f". Its value is {_brief(value)}" if is_shown(cls, name) else ""
                return f"{what}{told}. {_way_out(value)}"
        return f"{cls.__name__} cannot be announced: {_shortened(error)}. {_way_out(None)}"

    @classmethod
    def read(cls, envelope: Envelope) -> Self:
        """
        Return the event in this envelope. Its ``meta`` is the envelope as it came, also if its version is another one.

        Raises `pydantic.ValidationError` when the data does not fit, `VersionError` when this class cannot read the
        version, and `UpcastError` when an upcaster fails.
        """
        data = envelope.data if envelope.version == cls.event_version else data_for(cls, envelope)
        event: Self = way_of(cls).read(data)
        object.__setattr__(event, "_meta", envelope)
        return event

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:  # type: ignore[override]
        """
        Return an event with these values, which pydantic does not validate.

        Raises `InvalidEventError` for one that the class could not read back.
        """
        event: Self = super().model_construct(_fields_set, **values)
        event._check_unvalidated()
        return event

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """
        Return a copy, with other values of the fields in ``update``, which pydantic does not validate.

        Raises `InvalidEventError` for a copy that the class could not read back.
        """
        copy = super().model_copy(update=update, deep=deep)
        if update:
            copy._check_unvalidated()
        return copy

    def __copy__(self) -> Self:
        return _fill(super().__copy__(), _slots_of(self))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return _fill(super().__deepcopy__(memo), deepcopy(_slots_of(self), memo))

    def copy(self, *args: Any, **options: Any) -> Self:
        """Copy as pydantic's deprecated ``copy`` does, with the metadata."""
        return _fill(super().copy(*args, **options), _slots_of(self))

    def __getstate__(self) -> dict[Any, Any]:
        return super().__getstate__() | {_SLOTS: _slots_of(self)}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        _fill(self, state.get(_SLOTS, {}))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        # Values that cannot be hashed (a list) are left out. Equal events still have equal hashes.
        return hash((type(self), *(value for value in self.__dict__.values() if _is_hashable(value))))


_E = TypeVar("_E", bound=Event)

#: The key of the slots in the state of a pickled event.
_SLOTS = "choreo"


def _slot(event: Event, name: str) -> Any:
    """Return the value of a slot, or None if it is not set."""
    try:
        # Not `getattr`: on an event with `extra="allow"` that would find an unknown field of this name.
        return object.__getattribute__(event, name)
    except AttributeError:
        return None


def _slots_of(event: Event) -> dict[str, Any]:
    return {name: _slot(event, name) for name in Event.__slots__ if _slot(event, name) is not None}


def _fill(event: _E, slots: dict[str, Any]) -> _E:
    for name, value in slots.items():
        object.__setattr__(event, name, value)
    return event


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def _way_out(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _NO_BYTES
    return "Events travel as JSON: use a type that pydantic can write as JSON, or give the field a serializer."


def _check_base(cls: type[Event], event_type: str | None, *, abstract: bool) -> None:
    """
    Raise `DeclarationError` for a class that inherits from an event, unless its class line names its own type.

    The broker knows types, and no classes. A handler of the base would not hear it, and nothing would say so.
    """
    base: Any = next((base for base in cls.__mro__[1:] if "event_type" in vars(base)), None)
    if base is None or event_type is not None or cls.__pydantic_generic_metadata__["origin"] is not None:
        return
    share = "Share the fields in a base of both: class ...(Event, abstract=True)"
    if abstract:
        raise DeclarationError(f"{cls.__name__} cannot be abstract: its base {base.__name__} is an event. {share}.")
    own = naming.type_of(cls.__name__)
    raise DeclarationError(
        f"{cls.__name__} travels as {own}, so the handlers of its base {base.__name__} ({base.event_type}) would not "
        f"hear it. {share}; or say that it is another event: class {cls.__name__}({base.__name__}, "
        f'type="{own}").'
    )


def known_events(package: str = "") -> dict[str, type[Event]]:
    """
    Return every event class that is imported in this process, by type.

    If several classes have one type, a class of ``package`` goes first, and then the newest version.
    """
    known = sorted(event_classes(), key=lambda event: event.event_version)
    known.sort(key=lambda event: f"{event.__module__}.".startswith(f"{package}."))
    return {event.event_type: event for event in known}


def event_classes(event_type: str = "") -> list[type[Event]]:
    """Return every event class that is imported in this process: of one type, or of all."""
    known = [event for event in _subclasses(Event) if "event_type" in vars(event)]
    return [event for event in known if event_type in ("", event.event_type)]


def _read_names(cls: type[Event]) -> list[str] | None:
    """The names under which this class reads fields on the wire. None: it takes any."""
    return None if cls.model_config.get("extra") == "allow" else list(dict.fromkeys(wire_names(cls)))


def _subclasses(cls: type[Event]) -> Iterator[type[Event]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _words(class_name: str, event_type: str | None) -> list[str]:
    return naming.words_of(class_name) if event_type is None else event_type.replace("_", ".").split(".")


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
