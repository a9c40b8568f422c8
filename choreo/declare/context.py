"""The context of a handler: the delivery that it works on, and the events that it announces."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import RLock
from typing import TYPE_CHECKING, Any

from choreo.declare.delay import Delay
from choreo.durations import moment_of
from choreo.errors import HandlerEndedError
from choreo.events.envelope import Envelope
from choreo.events.ids import named_id
from choreo.events.metadata import Meta, Value, inherited, joined

if TYPE_CHECKING:
    from choreo.events.event import Event


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


_current: ContextVar["Context | None"] = ContextVar("choreo_context", default=None)


@dataclass(frozen=True, slots=True)
class Context:
    """
    The delivery that a handler works on. A handler receives it in a parameter of this type.

    A context lives for one attempt. Do not keep it after the handler has returned: it announces nothing then.
    """

    #: The name of the service.
    service: str
    #: The name of the handler: ``<service>.<function>``.
    handler: str
    #: The event that is handled. For a join: the part that was announced last.
    envelope: Envelope
    #: The number of this attempt, from 1.
    attempt: int
    #: The largest number of attempts: `Retry.attempts`.
    attempts: int
    #: The same in every retry, redelivery and replay of this unit. Pass it to an outside system (a payment provider)
    #: whose effect must happen once.
    idempotency_key: str
    #: The events that the handler has announced so far. They are sent only if the handler succeeds.
    announced: list[Envelope] = field(default_factory=list)
    #: The delayed events among them: event id → delay.
    delays: dict[str, Delay] = field(default_factory=dict)
    #: The ids of the events among them that were called off.
    withdrawn: set[str] = field(default_factory=set)
    #: The subject of announced events, if it is not that of ``envelope``. See `subject`.
    about: str | None = None
    #: The events that the handler is called with: one, or the parts of a join that have arrived, in the join's order.
    events: tuple[Envelope, ...] = ()
    #: Tells the time at which an event is announced: by the clock of the worker.
    now: Callable[[], datetime] = field(default=utc_now, repr=False, compare=False)
    #: Tells the time of the store, in seconds since 1970. See `store_time`.
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    _lock: Any = field(default_factory=RLock, init=False, repr=False, compare=False)
    #: True once the handler has ended. Under the lock, no event is announced while it ends.
    _ended: bool = field(default=False, init=False, repr=False, compare=False)

    @property
    def subject(self) -> str:
        """The subject of the event. For a join: the subject of its first part."""
        return self.envelope.subject if self.about is None else self.about

    @property
    def correlation_id(self) -> str:
        """The correlation id of the event."""
        return self.envelope.correlation_id

    @property
    def meta(self) -> dict[str, Value]:
        """
        The metadata that the announced events inherit: what was given to the event, and to those that led to it.

        For a join, it is that of all its parts. If they have different values for a name, the first of them in the
        join's order counts. ``traceparent`` is that of the part that was announced last, which is the cause.
        """
        if not (self.envelope.extensions or len(self.events) > 1):
            return {}
        return inherited([event.extensions for event in self.events or [self.envelope]], self.envelope.extensions)

    def store_time(self) -> datetime:
        """
        The time by the store's clock, in UTC. Delayed events go by this clock; the clock of a worker may be wrong.

        ``app.publish(event, at=context.store_time() + timedelta(hours=1))`` is right on every machine, and so is
        ``delay=timedelta(hours=1)``. Raises `StoreError` when the store does not answer.
        """
        return moment_of(self.clock())

    def announce(
        self,
        event: "Event",
        subject: str | None = None,
        delay: Delay | None = None,
        meta: Meta | None = None,
    ) -> Envelope:
        """
        Add an event to those that are sent when the handler succeeds, or ``delay`` later.

        ``meta`` is metadata of the event in addition to what it inherits; None for a name: it does not inherit it.

        The id of the event derives from the unit and from its position among the announced events. If the handler runs
        again after a crash, its events get the same ids, so other handlers recognise them.

        Raises `HandlerEndedError` when the handler has ended: the event could no longer leave with its success.
        """
        with self._lock:
            if self._ended:
                raise HandlerEndedError(
                    f"{self.handler} has ended, and this {type(event).__name__} was announced in its context. Wait for "
                    f"the threads that a handler starts before it returns, or announce with app.publish(...)."
                )
            return self._announce(event, subject, delay, meta)

    def _announce(self, event: "Event", subject: str | None, delay: Delay | None, meta: Meta | None) -> Envelope:
        now = self.now()
        envelope = event.sealed(
            id=named_id(f"{self.idempotency_key}/{len(self.announced)}"),
            source=self.service,
            subject=self.about if subject is None else subject,
            cause=self.envelope,
            time=now if delay is None else delay.moment(now),
            extensions=joined(self.meta, meta) if meta else self.meta,
        )
        self.announced.append(envelope)
        if delay is not None:
            self.delays[envelope.id] = delay
        return envelope

    def withdraw(self, event_id: str) -> bool:
        """
        Call off an event that was announced in this context. Returns False if it was called off before.

        Raises `HandlerEndedError` when the handler has ended.
        """
        with self._lock:
            if self._ended:
                raise HandlerEndedError(f"{self.handler} has ended: call off its events with app.call_off(key).")
            if event_id in self.withdrawn:
                return False
            self.withdrawn.add(event_id)
            return True

    @property
    def leaving(self) -> list[Envelope]:
        """The announced events that were not called off."""
        return [envelope for envelope in self.announced if envelope.id not in self.withdrawn]

    def active(self) -> AbstractContextManager[None]:
        """Return a context manager inside which `current` returns this context. The context ends with it."""
        return Active(self)


class Active:
    """The context manager of `Context.active`."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = _current.set(self._context)

    def __exit__(self, *_: object) -> None:
        with self._context._lock:
            object.__setattr__(self._context, "_ended", True)  # the class is frozen
        _current.reset(self._token)


def current() -> Context | None:
    """Return the context of the handler that runs in this thread, also if it has ended; None outside a handler."""
    return _current.get()


def _in_child() -> None:
    # The child of a handler that forks (multiprocessing) has a copy of the context, which no worker reads.
    _current.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
