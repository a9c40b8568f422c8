"""Events: facts with typed fields."""

from collections.abc import Iterator
from copy import deepcopy
from datetime import datetime
from reprlib import Repr
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from choreo.errors import DeclarationError, InvalidEventError, NotAnnouncedError
from choreo.events import naming
from choreo.events.bytes_fields import bytes_field_of
from choreo.events.envelope import Envelope

_shortener = Repr()
_shortener.maxstring = _shortener.maxother = 200
_brief = _shortener.repr

_NO_BYTES = (
    "Events travel as JSON, which has no bytes: annotate the field with pydantic.Base64Bytes, or announce where the "
    "data is."
)

#: Attributes of `Event`. No field can have one of these names.
_OWN_NAMES = frozenset({"meta", "about", "sealed", "read", "event_type", "event_version"})


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
    - ``version=2`` is the version of the fields, from 1.
    - ``fact=True`` accepts a name that reads like a command. Without it ``ChargePayment`` raises `EventNameError`.
    - ``abstract=True`` makes a base class for events. It has no type and cannot be announced.

    Raises `DeclarationError` for any other option, for a field with the name of one of `Event`'s own attributes, and
    for a field of bytes without an encoding (`pydantic.Base64Bytes` has one).

    Events are immutable. Fields that the class does not know are ignored.
    Two events are equal if they are of one class and have equal fields. The metadata does not count.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: The type under which the event travels, such as ``order.placed``. Not set on abstract classes.
    event_type: ClassVar[str]
    #: The version of the event's fields, from 1.
    event_version: ClassVar[int] = 1

    # Slots, not pydantic's private attributes: pydantic sets those with one Python call per class in the hierarchy.
    __slots__ = ("_meta", "_subject")
    if TYPE_CHECKING:
        _meta: Envelope = PrivateAttr()
        _subject: str = PrivateAttr()

    def __init_subclass__(cls, **options: Any) -> None:
        """Accept the options of the class line. `__pydantic_init_subclass__` reads them, when the fields are known."""

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        type: str | None = None,  # noqa: A002 - the word users write in the class line
        version: int = 1,
        fact: bool = False,
        abstract: bool = False,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise DeclarationError(
                f"class {cls.__name__}(Event, {next(iter(unknown))}=...): an event takes type, version, fact "
                f"and abstract."
            )
        if taken := sorted(_OWN_NAMES & cls.model_fields.keys()):
            raise DeclarationError(f"{cls.__name__}.{taken[0]}: this name is the event's own. Rename the field.")
        if field := bytes_field_of(cls):
            raise DeclarationError(f"{cls.__name__}.{field}: {_NO_BYTES}")
        if abstract:
            return
        if not isinstance(version, int) or version < 1:
            raise DeclarationError(f"{cls.__name__}: version is {version!r}, not a number from 1.")
        cls.event_type = type if type is not None else naming.type_of(cls.__name__)
        cls.event_version = version
        naming.check_type(cls.event_type)
        if not fact:
            naming.check_fact(cls.__name__, _words(cls.__name__, type))

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
        that of ``cause``, else ``id``. ``extensions`` are its further attributes. Raises `InvalidEventError` when the
        subject is not a text, or a field cannot be written as JSON.
        """
        about = _slot(self, "_subject")
        if about is None:
            about = subject
        if about is None:
            about = cause.subject if cause else ""
        if not isinstance(about, str):
            raise InvalidEventError(f"the subject of an event is a text, such as 'ORD-1', not {_brief(about)}")
        return Envelope(
            id=id,
            type=self.event_type,
            source=source,
            subject=about,
            time=time,
            correlation_id=cause.correlation_id if cause else id,
            causation_id=cause.id if cause else None,
            version=self.event_version,
            data=self._dumped(),
            extensions=extensions or {},
        )

    def _dumped(self) -> dict[str, Any]:
        try:
            return self.model_dump(mode="json", by_alias=True)
        except Exception as error:  # pydantic's own, or any that a serializer of the class raises
            raise InvalidEventError(self._fault(error)) from error

    def _fault(self, error: Exception) -> str:
        """Why this event cannot be written as JSON: the field, its value, and the way out."""
        cls = type(self)
        for name in (*cls.model_fields, *cls.model_computed_fields):
            try:
                self.model_dump(mode="json", include={name})
            except Exception as fault:
                what = f"{cls.__name__}.{name} cannot be announced: {_shortened(fault)}"
                return f"{what}. Its value is {_brief(self.__dict__.get(name))}. {_way_out(self.__dict__.get(name))}"
        return f"{cls.__name__} cannot be announced: {_shortened(error)}. {_way_out(None)}"

    @classmethod
    def read(cls, envelope: Envelope) -> Self:
        """Return the event in this envelope. Raises `pydantic.ValidationError` when the data does not fit."""
        event = cls.model_validate(envelope.data)
        object.__setattr__(event, "_meta", envelope)
        return event

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


def known_events(package: str = "") -> dict[str, type[Event]]:
    """
    Return every event class that is imported in this process, by type.

    If several classes have one type, a class of ``package`` goes first.
    """
    known = [event for event in _subclasses(Event) if "event_type" in vars(event)]
    known.sort(key=lambda event: f"{event.__module__}.".startswith(f"{package}."))
    return {event.event_type: event for event in known}


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
