"""A stage: a platform of services in one process, without broker, worker or thread, and with a clock for tests."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from uuid import uuid4

from choreo.announcement import Announcement
from choreo.declare.checks import checked_event
from choreo.declare.delay import Delay
from choreo.delivery.breaker import OutageBreaker, is_open
from choreo.delivery.clock import Clock
from choreo.delivery.dead_letter import DeadLetter
from choreo.delivery.undeclared import service_of
from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError, PublishError
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.message import Message
from choreo.events.metadata import Meta, checked_meta, joined
from choreo.observe.effects import Effects
from choreo.observe.map import Map, drawn
from choreo.operate.joins import PendingJoin
from choreo.operate.stories import PendingStory
from choreo.service import Service
from choreo.store.memory import MemoryStore
from choreo.store.memory_content import Content
from choreo.store.pauses import Pause
from choreo.store.presence import Program
from choreo.store.schedule import DELAYED, Scheduled
from choreo.testing.clock import VirtualClock
from choreo.testing.found import Found
from choreo.testing.log import Announced, Delivered, Log
from choreo.testing.loop import EndlessLoopError, loop_in
from choreo.testing.publisher import MemoryPublisher
from choreo.testing.queues import PendingDelivery, Queues, due_among, event_in, first, rest_of_batch
from choreo.testing.runtime import StageRuntime, standing_in
from choreo.testing.story import StageStory
from choreo.testing.worker import StageWorker

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)

#: Deliveries that one call of a stage makes at most, unless it is told otherwise.
MOST_DELIVERIES = 10_000


class Stage:
    """
    A platform of services in this process. See `stage`, which makes one.

    A service on a stage is not changed. During each call of the stage, and in its ``with`` block, the stage stands in
    for the broker and the store of its services, so that `choreo.Service.publish`, ``app.joins`` and
    ``app.dead_letters`` work on the stage, inside handlers and in the test. Afterwards the services are as before.

    Ordinary Celery tasks (``app.task``) are not run: a handler that calls ``task.delay()`` sends it to the broker of
    its service. Call such a task as a function, or set Celery's ``task_always_eager``.
    """

    def __init__(
        self,
        *services: Service,
        start: datetime | None = None,
        choose: Callable[[Sequence[PendingDelivery]], PendingDelivery] = first,
    ) -> None:
        """
        ``start`` is the time at which the clock of the stage begins; None is now. It needs a time zone.

        ``choose`` is a callback: it gets the pending deliveries, the oldest first, and returns the one that is made
        next. Raises `DeclarationError` for a thing that is no service, and for two services with one name.
        """
        _check(services)
        self._clock = VirtualClock(datetime.now(UTC) if start is None else start)
        self._log = Log()
        self._content = Content()
        self._runtimes = {app: self._runtime(app) for app in services}
        self._queues = Queues({app.service_name: app.subscriptions for app in services}, choose)
        self._worker = StageWorker(self._runtimes)
        #: The clock of each service, and the names of the schedules that it looks into.
        self._clocks: dict[Clock, list[str]] = {Clock(runtime): [] for runtime in self._runtimes.values()}
        self._store = MemoryStore(clock=self._clock.time, content=self._content)
        # Somebody sends the delayed events, as long as the stage is there.
        self._store.tend(DELAYED, float("inf"))
        #: The deliveries that are being made: one, or a batch.
        self._running: list[PendingDelivery] = []
        #: The handler whose messages are sent because they are due.
        self._sending = ""
        self._known: dict[str, list[Any]] = {}
        self._blocks: list[AbstractContextManager[None]] = []

    def _runtime(self, app: Service) -> StageRuntime:
        store = MemoryStore(app.terms, self._clock.time, self._content)
        runtime = StageRuntime(app.runtime, store, MemoryPublisher(self._take), self._clock.now)
        runtime.pending = self._present
        return runtime

    def _present(self) -> list[PendingDelivery]:
        """Tell the store that each service has a worker, and what it declares. Returns the pending deliveries."""
        for app, runtime in self._runtimes.items():
            queues = tuple(runtime.registered_names())
            description = runtime.describe()
            node = f"{app.service_name}@stage"
            program = Program(node, node, pool="stage", queues=queues, digest=description.digest)
            self._store.report(app.service_name, program, description.to_json(), float("inf"))
        return [*self._running, *self._queues.pending]

    def __repr__(self) -> str:
        return f"<Stage {', '.join(app.service_name for app in self._runtimes)}>"

    # -- acting --------------------------------------------------------------------------------------------------

    @overload
    def publish(
        self, event: Event | Envelope, subject: str | None = None, *, source: str = "test", meta: Meta | None = None
    ) -> Envelope: ...

    @overload
    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float,
        source: str = "test",
        meta: Meta | None = None,
    ) -> Announcement: ...

    @overload
    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        at: datetime,
        source: str = "test",
        meta: Meta | None = None,
    ) -> Announcement: ...

    def publish(
        self,
        event: Event | Envelope,
        subject: str | None = None,
        *,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        source: str = "test",
        meta: Meta | None = None,
    ) -> Envelope | Announcement:
        """
        Announce an event from outside, as a service called ``source`` would. No handler is called yet: see `run`.

        ``delay`` (a timedelta, or seconds), ``at`` and ``meta`` are those of `choreo.Service.publish`. An envelope is
        announced as it is; to announce the one that an earlier call returned shows what a duplicate does.
        Raises `DeclarationError` for a thing that is no event and for a time that is none, and `PublishError` for an
        event that is too large.
        """
        with self._standing_in():
            if isinstance(event, Envelope):
                self._outside.publisher.announce([event])
                return event
            later = None if delay is None and at is None else Delay(delay, at)
            now = self._clock.now()
            envelope = checked_event(event).sealed(
                id=str(uuid4()),
                source=source,
                subject=subject,
                cause=None,
                time=now if later is None else later.moment(now),
                extensions=joined({}, checked_meta(meta)),
            )
            if later is None:
                self._outside.publisher.announce([envelope])
                return envelope
            key, message = f"event:{envelope.id}", self._outside.publisher.message_for(envelope)
            self._store.schedule(DELAYED, Scheduled(key, message, later.seconds(self._store.now, self._clock.now)))
            call_off = partial(self._store.unschedule, DELAYED, key)
            return Announcement(envelope, envelope.time, f"{DELAYED}/{envelope.id}", call_off)

    def run(self, *, most: int = MOST_DELIVERIES) -> int:
        """
        Make the pending deliveries, those that they lead to, and so on until none is left. Returns their number.

        Time does not pass: messages that are due now are sent, and retries, deadlines and delayed events that fall due
        later wait for `advance`. Raises `EndlessLoopError`, which names the loop, instead of delivery ``most`` + 1.
        """
        with self._delivering(most) as run_until_quiet:
            return run_until_quiet()

    def advance(self, by: timedelta | None = None, *, most: int = MOST_DELIVERIES, **units: float) -> int:
        """
        Let time pass: ``advance(minutes=31)``, ``advance(timedelta(days=1))``. Returns the number of deliveries.

        The clock stops at each moment at which a message falls due (a retry, a deadline of a join or of a story, a
        delayed event), a pause ends, or a breaker lets an event through, in their order, and `run` is called at each.
        ``units`` are those of `datetime.timedelta`.
        Raises `ValueError` for a time that is negative or longer than a hundred years, and `EndlessLoopError` instead
        of delivery ``most`` + 1.
        """
        passed = (timedelta() if by is None else by) + timedelta(**units)
        if passed < timedelta():
            raise ValueError(f"advance({passed!r}): time does not go back.")
        if not is_wait(passed):
            raise ValueError(f"advance({passed!r}): time goes {LONGEST.days} days at most in one step.")
        until = self._clock.seconds + passed.total_seconds()
        with self._delivering(most) as run_until_quiet:
            count = run_until_quiet()
            while (due := self._next_moment()) is not None and due <= until:
                self._clock.seconds = max(self._clock.seconds, due)
                count += run_until_quiet()
            # A handler may have taken the clock further.
            self._clock.seconds = max(self._clock.seconds, until)
            return count

    def __enter__(self) -> Self:
        """Stand in for the broker and the store of the services until the end of the block."""
        block = self._standing_in()
        block.__enter__()
        self._blocks.append(block)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.pop().__exit__(kind, error, trace)

    # -- looking -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time by the clock of the stage, in UTC."""
        return self._clock.now()

    @property
    def events(self) -> list[Envelope]:
        """Every event that was announced so far, the oldest first. A delayed event is announced when it leaves."""
        return [one.event for one in self._log.announced]

    def announced(self, event: type[E], subject: str | None = None) -> Found[E]:
        """
        The events of this type that were announced so far: all of them, or those about one subject.

        Raises `pydantic.ValidationError` if an event of this type does not fit the class, and `VersionError` if it has
        a version that the class cannot read.
        """
        found = [one for one in self.events if one.type == event.event_type and subject in (None, one.subject)]
        sought = event.event_type if subject is None else f"{event.event_type} about {subject}"
        return Found(map(event.read, found), sought, self._story(subject))

    @property
    def deliveries(self) -> list[Delivered]:
        """Every delivery that was made so far, the oldest first."""
        return list(self._log.deliveries)

    @property
    def pending(self) -> list[PendingDelivery]:
        """The deliveries that `run` would make first, in the order in which their messages came."""
        return list(self._queues.pending)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters of all services on the stage, the oldest first."""
        return self._outside.dead_letters.find()

    @property
    def joins(self) -> list[PendingJoin]:
        """The pending joins of all services on the stage, handler by handler, soonest deadline first."""
        return list(self._outside.joins)

    @property
    def map(self) -> Map:
        """The events of the services on the stage, who announces them, and who hears them: see `choreo map`."""
        return drawn([runtime.describe() for runtime in self._runtimes.values()])

    def effects(self, what: str) -> Effects:
        """The effects about this subject that a handler can undo, and what became of each: see `choreo effects`."""
        self._present()
        return self._outside.observe.effects(what)

    @property
    def stories(self) -> list[PendingStory]:
        """The pending stories of all services on the stage: for each name overdue ones first, then by deadline."""
        return list(self._outside.stories)

    @property
    def story(self) -> str:
        """Everything that happened on the stage, for people."""
        return self._story().whole()

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _outside(self) -> StageRuntime:
        """The runtime for calls of the test itself. Any would do: they share one store and one set of queues."""
        return next(iter(self._runtimes.values()))

    def _story(self, subject: str | None = None) -> StageStory:
        return StageStory(
            self._log,
            letters=lambda: self.dead_letters,
            joins=lambda: self.joins,
            stories=lambda: self.stories,
            pending=self._queues.pending,
            now=self._clock.now,
            subject=subject,
        )

    @contextmanager
    def _standing_in(self) -> Iterator[None]:
        with standing_in(self._runtimes):
            self._look_at_declarations()
            yield

    def _look_at_declarations(self) -> None:
        """Introduce the handlers that were declared since the last call."""
        for runtime in self._runtimes.values():
            declared = list(runtime.subscriptions)
            if self._known.get(runtime.service_name) != declared:
                self._known[runtime.service_name] = declared
                self._queues.forget_routes()
                runtime.introduce()
                bindings = [(known.name, pattern) for known in declared for pattern in known.patterns]
                forever = float("inf")
                stale = self._store.declare(runtime.service_name, "stage", bindings, forever).stale
                self._store.declare(runtime.service_name, "stage", bindings, forever, removed=stale)
                for clock in self._clocks:
                    self._clocks[clock] = clock.schedule_names()

    @contextmanager
    def _delivering(self, most: int) -> Iterator[Callable[[], int]]:
        """Gives the function that makes deliveries until it is quiet, ``most`` of them in all its calls."""
        if self._running:
            raise RuntimeError(f"the stage is in the middle of {self._running[0]}: a handler cannot run or advance it.")
        left = most

        def run_until_quiet() -> int:
            nonlocal left
            count = 0
            while (ready := self._ready()) or self._send_due() or self._hasten():
                while ready:
                    if left == 0:
                        raise EndlessLoopError(self._endless(most))
                    made = self._deliver(ready)
                    left, count = max(left - made, 0), count + made
                    ready = self._ready()
            return count

        with self._standing_in():
            yield run_until_quiet

    def _ready(self) -> list[PendingDelivery]:
        """The pending deliveries that can be made now: not those of a paused handler, but for a probe."""
        pending = self._queues.pending
        pauses = self._pauses()
        if not pauses:
            return list(pending)
        return [one for one in pending if one.handler not in pauses or self._is_probe_due(pauses[one.handler])]

    def _pauses(self) -> dict[str, Pause]:
        """Handler → the pause that stops it."""
        pauses = self._store.pauses()
        return {name: pause for name, pause in pauses.items() if pause.is_stop}

    def _is_probe_due(self, pause: Pause) -> bool:
        return is_open(pause) and pause.probe_at is not None and pause.probe_at.timestamp() <= self._clock.seconds

    def _hasten(self) -> bool:
        """Let an event that has failed be probed where no other waits. True if there was one."""
        waiting = {one.handler for one in self._queues.pending}
        due = [name for name, pause in self._pauses().items() if name not in waiting and self._is_probe_due(pause)]
        return sum(self._store.hasten_held(name, 1) for name in due) > 0

    def _begin_probe(self, pending: PendingDelivery) -> str:
        """The token of the probe that a delivery is; "" if it is none."""
        pause = self._store.pause_of(pending.handler)
        if pause is None or not is_open(pause):
            return ""
        runtime = next(one for one in self._runtimes.values() if one.service_name == service_of(pending.handler))
        (subscription,) = [known for known in runtime.subscriptions if known.name == pending.handler]
        return OutageBreaker(runtime, subscription).begin_probe(pause)

    def _deliver(self, ready: Sequence[PendingDelivery] | None = None) -> int:
        """Make the next delivery, or a batch of them. Returns their number."""
        ready = self._ready() if ready is None else ready
        pending = self._queues.take(due_among(ready, self._batches))
        probe = self._begin_probe(pending)
        batch = [pending]
        if not probe:
            batch += [self._queues.take([one]) for one in rest_of_batch(pending, ready, self._batches)]
        self._running = batch
        try:
            delivered = self._worker.make_all(batch) if len(batch) > 1 else [self._worker.make(pending, probe)]
        except BaseException:
            for back in reversed(batch):
                self._queues.give_back(back)
            raise
        finally:
            self._running = []
        self._log.deliveries += delivered
        for one in delivered:
            if one.error is not None and isinstance(one.error.__cause__, KeyboardInterrupt):
                # A worker would make the next attempt. Here it is somebody who wants the test to end.
                raise one.error.__cause__
        return len(batch)

    @property
    def _batches(self) -> dict[str, int]:
        """Handler → the size of its batches."""
        declared = [one for runtime in self._runtimes.values() for one in runtime.subscriptions]
        return {one.name: one.batch.size for one in declared if one.batch is not None}

    def _next_moment(self) -> float | None:
        """The next time at which a message falls due, a pause ends, or a breaker lets an event through."""
        ends = [moment for pause in self._pauses().values() for moment in (pause.until, pause.probe_at) if moment]
        later = [moment.timestamp() for moment in ends if moment.timestamp() > self._clock.seconds]
        due = self._next_due()
        return min(later if due is None else [due, *later], default=None)

    def _next_due(self) -> float | None:
        dues = [self._store.next_due(names) for names in self._clocks.values()]
        return min((due for due in dues if due is not None), default=None)

    def _send_due(self) -> bool:
        """Send the messages that are due now. True if there were any."""
        due = self._next_due()
        if due is None or due > self._clock.seconds:
            return False
        for clock, names in self._clocks.items():
            for name in self._store.ripe(names):
                self._send_due_of(clock, name)
        return True

    def _send_due_of(self, clock: Clock, name: str) -> None:
        self._sending = "" if name == DELAYED else name
        try:
            clock.send_due([name])
        except PublishError as error:
            logger.warning("some messages of %s that are due were not sent: %s", name, error)
        finally:
            self._sending = ""

    def _take(self, messages: Sequence[Message]) -> list[bool]:
        """Take messages from the publisher of a service."""
        heard, at = self._queues.put(messages), self._clock.now()
        for message in messages:
            if message.exchange:
                by = self._running[0].handler if self._running else self._sending
                self._log.announced.append(Announced(message, by, self._in_hand(message), at))
        return heard

    def _in_hand(self, message: Message) -> Envelope | None:
        """The event that led to this message; of a batch, the one that is its cause."""
        events = [one.event for one in self._running if one.event is not None]
        if len(events) > 1:
            cause = event_in(message).causation_id
            return next((event for event in events if event.id == cause), events[0])
        return events[0] if events else None

    def _endless(self, most: int) -> str:
        return (
            f"{most:,} deliveries, and {len(self._queues.pending):,} more are pending. Is this an endless loop? "
            f"{loop_in(self._log)}. If it is none, give a higher bound: run(most=...)."
        )


def stage(
    *services: Service,
    start: datetime | None = None,
    choose: Callable[[Sequence[PendingDelivery]], PendingDelivery] = first,
) -> Stage:
    """
    A stage for these services: they run in this process, without broker, worker or thread.

        >>> platform = stage(payment.app, restaurant.app, driver.app)
        >>> platform.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
        >>> platform.run()
        >>> [assigned] = platform.announced(DriverAssigned, subject="ORD-1")

    The options are those of `Stage`. Raises `DeclarationError` for a thing that is no service, and for two services
    with one name.
    """
    return Stage(*services, start=start, choose=choose)


def _check(services: Sequence[object]) -> None:
    if not services:
        raise DeclarationError("stage() has no services. Write stage(payment.app, restaurant.app).")
    names: dict[str, Service] = {}
    for app in services:
        if not isinstance(app, Service):
            raise DeclarationError(f"stage({app!r}): it is no service. Write stage(payment.app, restaurant.app).")
        if app.service_name in names:
            raise DeclarationError(f"stage(): two services are called {app.service_name!r}. Give one another name.")
        names[app.service_name] = app
