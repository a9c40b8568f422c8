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
from choreo.errors import HandlerEndedError, InvalidEventError
from choreo.events.drafts import draft_of
from choreo.events.envelope import Envelope
from choreo.events.ids import named_id
from choreo.events.metadata import Meta, Value, inherited, joined

if TYPE_CHECKING:
    from choreo.declare.members import Members
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
    #: The event that is handled. For a join: the part that was announced last. For a batch: the event of it that was.
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
    #: The events that the handler is called with: one, or the parts of a join that have arrived, in the join's order;
    #: or those of a batch, in the order of the list.
    events: tuple[Envelope, ...] = ()
    #: The members of the batch, for a handler with ``batch=``; None for any other.
    batch: "Members | None" = None
    #: Tells the time at which an event is announced: by the clock of the worker.
    now: Callable[[], datetime] = field(default=utc_now, repr=False, compare=False)
    #: Tells the time of the store, in seconds since 1970. See `store_time`.
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    _lock: Any = field(default_factory=RLock, init=False, repr=False, compare=False)
    #: True once the handler has ended. Under the lock, no event is announced while it ends.
    _ended: bool = field(default=False, init=False, repr=False, compare=False)

    @property
    def subject(self) -> str:
        """The subject of the event. For a join: of its first part. For a batch: that of all its events, or ""."""
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
        join's order counts. ``traceparent`` is that of the part that was announced last, which is the cause. For a
        batch, it is what all its events have in common; an event with ``because`` inherits from that event alone.
        """
        if not (self.envelope.extensions or len(self.events) > 1):
            return {}
        if self.batch is not None:
            return self.batch.meta
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
        because: "Event | Envelope | None" = None,
    ) -> Envelope:
        """
        Add an event to those that are sent when the handler succeeds, or ``delay`` later.

        ``meta`` is metadata of the event in addition to what it inherits; None for a name: it does not inherit it.
        ``because`` is for a batch: the event of it that causes the new one, as the handler was given it, or its
        envelope from `events`. The new event belongs to that event's story and has its subject, and leaves only if that
        event succeeds.

        The id of the event derives from the unit and from its position among the announced events. If the handler runs
        again after a crash, its events get the same ids, so other handlers recognise them.

        Raises `HandlerEndedError` when the handler has ended: the event could no longer leave with its success; and
        `InvalidEventError` if ``because`` is no event of this batch.
        """
        with self._lock:
            if self._ended:
                raise HandlerEndedError(
                    f"{self.handler} has ended, and this {type(event).__name__} was announced in its context. Wait for "
                    f"the threads that a handler starts before it returns, or announce with app.publish(...)."
                )
            cause = None if because is None else self._member(because)
            return self._announce(event, subject, delay, meta, cause)

    def _announce(
        self,
        event: "Event",
        subject: str | None,
        delay: Delay | None,
        meta: Meta | None,
        cause: Envelope | None = None,
    ) -> Envelope:
        now = self.now()
        if cause is None or self.batch is None:
            key, about, inherits = f"{self.idempotency_key}/{len(self.announced)}", self.about, self.meta
        else:
            key, about, inherits = self.batch.next_key(cause), cause.subject, self.batch.meta_of(cause)
        envelope = event.sealed(
            id=named_id(key),
            source=self.service,
            subject=about if subject is None else subject,
            cause=cause or self.envelope,
            time=now if delay is None else delay.moment(now),
            extensions=joined(inherits, meta) if meta else inherits,
        )
        self.announced.append(envelope)
        if cause is not None and self.batch is not None:
            self.batch.causes[envelope.id] = cause.identity
        if delay is not None:
            self.delays[envelope.id] = delay
        return envelope

    def fail(self, event: "Event | Envelope", error: Exception) -> None:
        """
        Let one event of a batch fail with this error, while the others succeed.

        What becomes of it is decided as if the handler had raised ``error`` for this event alone: a retry, which runs
        alone, or a dead letter. ``event`` is as the handler was given it, or its envelope from `events`. Of two calls
        for one event the first counts.

        Raises `InvalidEventError` if it is no event of this batch or ``error`` is no exception, and `HandlerEndedError`
        when the handler has ended.
        """
        if not isinstance(error, Exception):
            raise InvalidEventError(
                f"context.fail(..., {error!r}): that is no exception. Write context.fail(order, ValueError('...'))."
            )
        with self._lock:
            if self._ended:
                raise HandlerEndedError(f"{self.handler} has ended: none of its events can fail any more.")
            member = self._member(event)
            if self.batch is not None:
                self.batch.failures.setdefault(member.identity, error)

    def _member(self, event: "Event | Envelope") -> Envelope:
        """The envelope of an event of the batch. Raises `InvalidEventError` if it is none."""
        if self.batch is None:
            raise InvalidEventError(
                f"{self.handler} is called with one event, or with the parts of a join: because= and context.fail(...) "
                f"are for the events of a batch. Leave because= out, and raise the error."
            )
        return self.batch.envelope_of(event, self.handler)

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


def put_in_batch(context: Context, members: "Members") -> Context:
    """The context, which from now on is that of a batch with these members."""
    object.__setattr__(context, "batch", members)  # the class is frozen
    return context


_Draft: Any = draft_of(Context)


def context_of(
    *,
    service: str,
    handler: str,
    envelope: Envelope,
    about: str | None,
    attempt: int,
    attempts: int,
    idempotency_key: str,
    events: tuple[Envelope, ...],
    now: Callable[[], datetime],
    clock: Callable[[], float],
) -> Context:
    """A `Context` with these fields, of an attempt that begins. In a third of the time."""
    made = _Draft()
    made.service, made.handler, made.envelope, made.about, made.events = service, handler, envelope, about, events
    made.attempt, made.attempts, made.idempotency_key = attempt, attempts, idempotency_key
    made.announced, made.delays, made.withdrawn, made.batch = [], {}, set(), None
    made.now, made.clock = now, clock
    made._lock, made._ended = RLock(), False
    made.__class__ = Context
    return made  # type: ignore[no-any-return]


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
