"""What a handler may know about the delivery it is working on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

from choreo.declare.delay import Delay
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.ids import named_id


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


_current: ContextVar["Context | None"] = ContextVar("choreo_context", default=None)


@dataclass(frozen=True, slots=True)
class Context:
    """
    Give a handler a parameter of this type to receive it.

    ``idempotency_key`` stays the same through every retry, redelivery and replay of the same work: pass it to the
    outside system (a payment provider) whose effect must happen once.
    """

    service: str
    handler: str
    #: The event which is handled; for a join, that of its parts which was announced last.
    envelope: Envelope
    #: This attempt, from 1.
    attempt: int
    #: How many attempts there are at most.
    attempts: int
    idempotency_key: str
    #: What the handler has announced so far. It leaves only if the handler succeeds.
    announced: list[Envelope] = field(default_factory=list)
    #: Which of these leave later: id → when.
    delays: dict[str, Delay] = field(default_factory=dict)
    #: Which of these were called off.
    withdrawn: set[str] = field(default_factory=set)
    #: What announced events are about, if that is not what ``envelope`` is about: see `subject`.
    about: str | None = None
    #: The events that the handler is called with: one, or the parts of a join that have arrived, in the join's order.
    events: tuple[Envelope, ...] = ()
    #: Tells the time at which an event is announced.
    now: Callable[[], datetime] = field(default=utc_now, repr=False, compare=False)

    @property
    def subject(self) -> str:
        """What the work is about; for a join, what the first of its parts is about."""
        return self.envelope.subject if self.about is None else self.about

    @property
    def correlation_id(self) -> str:
        return self.envelope.correlation_id

    def announce(self, event: Event, subject: str | None = None, delay: Delay | None = None) -> Envelope:
        """
        Add an event to what leaves when the handler succeeds, or so long after.

        Its id follows from the work and its place in the batch: when a crash makes the handler run again, the same
        facts get the same ids, and nobody counts them twice.
        """
        now = self.now()
        envelope = event.sealed(
            id=named_id(f"{self.idempotency_key}/{len(self.announced)}"),
            source=self.service,
            subject=self.about if subject is None else subject,
            cause=self.envelope,
            time=now if delay is None else delay.moment(now),
        )
        self.announced.append(envelope)
        if delay is not None:
            self.delays[envelope.id] = delay
        return envelope

    def withdraw(self, event_id: str) -> bool:
        """Take back what was announced here and has not left. False when it was taken back before."""
        if event_id in self.withdrawn:
            return False
        self.withdrawn.add(event_id)
        return True

    @property
    def leaving(self) -> list[Envelope]:
        """What has been announced and was not called off."""
        return [envelope for envelope in self.announced if envelope.id not in self.withdrawn]

    def active(self) -> AbstractContextManager[None]:
        """Let `current` find this context while the handler runs."""
        return _Active(self)


class _Active:
    """`Context.active`."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = _current.set(self._context)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def current() -> Context | None:
    """The context of the handler that runs in this thread, if any."""
    return _current.get()
