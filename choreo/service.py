"""A service: a Celery app that reacts to events. It declares and publishes; `choreo.runtime` puts it together."""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar, overload
from uuid import uuid4

from celery import Celery

from choreo.announcement import Announcement
from choreo.broker.publisher import Publisher
from choreo.declare.around import Around, checked_around, surrounded
from choreo.declare.checks import (
    check_called,
    check_listener,
    check_name,
    check_options,
    check_service_options,
    checked_event,
    checked_retry,
)
from choreo.declare.context import Context, current
from choreo.declare.delay import Delay
from choreo.declare.join import By, Part, make_join
from choreo.declare.reaction import describe, inspect_function
from choreo.declare.retry import Retry
from choreo.declare.subscription import Subscription, Topic, check_single, patterns_of
from choreo.delivery.notice import Listener, log_dead_letter
from choreo.errors import DeclarationError, PublishError
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.operate.dead_letters import DeadLetters
from choreo.operate.joins import Joins
from choreo.runtime import WORKER_CLASS, WORKER_STEPS, Runtime, defaults
from choreo.store.schedule import DELAYED, TENDED, Backlog, Scheduled
from choreo.store.terms import Terms

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound=Around)

#: How many events of `Service.publish_many` are confirmed together.
BATCH = 500


class Service(Celery):
    """
    A Celery app that hears events, and announces its own.

        >>> app = Service("payment")
        >>> @app.on(OrderPlaced)
        ... def charge_customer(order: OrderPlaced) -> PaymentCharged | PaymentFailed:
        ...     return PaymentCharged(amount_cents=order.total_cents)

    ``celery -A handlers.payment worker`` runs it: queues, node name, late acknowledgement and JSON come along.
    A ``celeryconfig`` module on the path is read as Celery's settings; these belong to choreo:

    - ``choreo_store_url``: the Redis that keeps joins, retries and dead letters. Default: the broker, if it is Redis.
    - ``choreo_namespace``: separates whole platforms that share a broker ("staging").
    - ``choreo_unheard``: the reaction to an event that no handler hears: "ignore", "log" (the default: one line per
      type) or "error" (`publish` raises). ``app.publisher.unheard`` counts them per type.
    - ``choreo_shutdown_timeout``: seconds after which a worker that is told to stop ends its handlers. Default: 25.
    - ``choreo_fast_lane``: False turns the fast lane off. The promises are the same, and it is slower.

    ``retry`` holds for every handler that declares none. ``terms`` say how long the store waits and remembers.
    ``config`` is a module name, an object or a dict with settings, as for `celery.Celery`; None: no configuration.
    All other options go to `celery.Celery`. Raises `DeclarationError` for an option that neither knows.
    """

    amqp_cls = "choreo.broker.connections:ServiceAMQP"
    events_cls = "choreo.worker.worker_events:ServiceEvents"
    control_cls = "choreo.worker.control:ServiceControl"

    def __init__(
        self,
        name: str,
        *,
        retry: Retry = Retry(),  # noqa: B008 - immutable
        terms: Terms = Terms(),  # noqa: B008 - immutable
        config: str | object | None = "celeryconfig",
        **options: Any,
    ) -> None:
        check_name("service", name)
        check_service_options(options, ["retry", "terms", "config"])
        self.service_name = name
        self.retry = checked_retry(retry, f"Service({name!r})")
        self.terms = terms
        self.subscriptions: list[Subscription] = []
        #: Middleware for every handler of this service, outermost first.
        self._around: list[Around] = []
        self._listener: Listener = log_dead_letter
        #: The parts of this service, for workers and tools.
        self.runtime = Runtime(name, terms, self.subscriptions, lambda: self.conf, self._connect, lambda: self.tasks)
        if config == "celeryconfig" and importlib.util.find_spec("celeryconfig") is None:
            config = None
        super().__init__(name, config_source=config, **options)
        # Celery ranks added defaults above the user's configuration. Its own defaults are the last of maps.
        self.add_defaults(lambda: defaults(self.runtime, set[str]().union(*self.conf.maps[:-1])))
        self.steps["worker"].update(WORKER_STEPS)
        self.on_after_finalize.connect(self._register_tasks, weak=False)

    # -- declaring -----------------------------------------------------------------------------------------------

    def on(
        self,
        *topics: Topic,
        retry: Retry | None = None,
        name: str | None = None,
        around: Sequence[Around] = (),
        **unknown: Any,
    ) -> Callable[[F], F]:
        """
        Declare a handler: a function that is called with each event of these types, or that matches these patterns.

        It stays a plain function. The events that it returns are announced after it succeeded.
        Its task and its queue are called ``<service>.<function>``; ``name`` pins that when the function is renamed.
        ``around`` is middleware for this handler alone: see `around`.
        Raises `DeclarationError` when the function cannot take these events.
        """
        check_options("@app.on", unknown, ["retry", "name", "around"])
        check_called("on", topics)

        def declare(function: F) -> F:
            where = describe(function)
            if not topics:
                raise DeclarationError(f"@app.on() above {where} names no event. Write @app.on(OrderPlaced).")
            patterns = patterns_of(topics, where)
            reaction = inspect_function(function)
            check_single(reaction, topics)
            self._subscribe(
                Subscription(
                    service=self.service_name,
                    name=self._handler_name(function, name),
                    patterns=patterns,
                    reaction=reaction,
                    retry=self.retry if retry is None else checked_retry(retry, where),
                    around=tuple(checked_around(one, where) for one in around),
                )
            )
            return function

        return declare

    def join(
        self,
        *parts: Part,
        by: By = None,
        at_least: int | None = None,
        within: timedelta = timedelta(hours=1),
        on_timeout: Callable[..., Any] | None = None,
        unless: type[Event] | tuple[type[Event], ...] = (),
        retry: Retry | None = None,
        name: str | None = None,
        around: Sequence[Around] = (),
        **unknown: Any,
    ) -> Callable[[F], F]:
        """
        Declare a handler that waits until all these events have arrived for one subject, and is then called once.

        They may arrive in any order, and more than once. ``Several(ItemPacked, 3)`` waits for three of a type.
        ``by`` a field instead of the subject: ``by="order_id"``, or for each its own, ``by={OrderConfirmed: "order_id",
        PaymentCharged: "reference"}`` (None there is the subject). ``at_least`` so many of the parts are enough: the
        handler is called with None for the rest.
        ``unless`` one of those events comes, which cancels the join, also for parts that come later.
        If it is not complete ``within`` the time from the first event, ``on_timeout`` is called with what did arrive
        (None for the rest); without ``on_timeout``, what arrived becomes a dead letter.
        Raises `DeclarationError` when the functions cannot take these events.
        """
        check_options(
            "@app.join", unknown, ["by", "at_least", "within", "on_timeout", "unless", "retry", "name", "around"]
        )
        check_called("join", parts)

        def declare(function: F) -> F:
            where = describe(function)
            self._subscribe(
                make_join(
                    *parts,
                    service=self.service_name,
                    name=self._handler_name(function, name),
                    retry=self.retry if retry is None else checked_retry(retry, where),
                    reaction=inspect_function(function),
                    within=within,
                    on_timeout=None if on_timeout is None else inspect_function(on_timeout),
                    unless=unless if isinstance(unless, tuple) else (unless,),
                    at_least=at_least,
                    by=by,
                    around=tuple(checked_around(one, where) for one in around),
                )
            )
            return function

        return declare

    def around(self, function: A) -> A:
        """
        Declare middleware: a function that is called around every handler of this service, ``on_timeout`` included.

            >>> @app.around
            ... def logged(context: Context, proceed: Proceed) -> None:
            ...     with bound_contextvars(subject=context.subject):
            ...         proceed()

        ``proceed()`` runs the rest and returns the events that are going to be announced. It raises what the handler
        raises. What the middleware raises is a failure of the handler, which is retried or becomes a dead letter; so is
        its return without a call of ``proceed``.
        Several nest in the order of their declaration, the first outermost; those of ``@app.on(..., around=[...])`` and
        ``@app.join(..., around=[...])`` are inside. Raises `DeclarationError` unless it can be called like that.
        """
        self._around.append(checked_around(function, f"Service({self.service_name!r})"))
        self.subscriptions[:] = [surrounded(known, self._around) for known in self.subscriptions]
        if self.finalized:
            for subscription in self.subscriptions:
                self.tasks[subscription.name].subscription = subscription
        return function

    def dead_letter(self, function: F = None, **unknown: Any) -> F:  # type: ignore[assignment]
        """Declare what happens when an event of this service becomes a dead letter, in place of a line in the log."""
        check_options("@app.dead_letter", unknown, [])
        check_listener(function)
        if self._listener is not log_dead_letter:
            raise DeclarationError(
                f"{self.service_name} has a dead-letter handler already: {describe(self._listener)}. "
                f"Remove it, or {describe(function)}."
            )
        self._listener = function
        return function

    def task(self, *args: Any, **options: Any) -> Any:
        """Celery's decorator for an ordinary task, which stays this service's own: Celery would share it with all."""
        return super().task(*args, **{"shared": False, **options})

    # -- announcing ----------------------------------------------------------------------------------------------

    @overload
    def publish(self, event: Event, subject: str | None = None) -> Envelope: ...

    @overload
    def publish(self, event: Event, subject: str | None = None, *, delay: timedelta | float) -> Announcement: ...

    @overload
    def publish(self, event: Event, subject: str | None = None, *, at: datetime) -> Announcement: ...

    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
    ) -> Envelope | Announcement:
        """
        Announce an event to whoever listens.

        On return the broker holds it for every subscribed queue. Inside a handler of this service the event joins what
        the handler returns instead: it leaves only if the handler succeeds, about the same subject unless one is given.
        Raises `PublishError` when the broker does not confirm; publishing again is safe.

        With a ``delay`` (a timedelta, or seconds), or ``at`` a moment, the event is kept in the store and leaves then;
        `Announcement.cancel` calls it off. Any live worker of any service of this namespace that uses the same store
        sends it, at most a quarter of a second late: the program that announced it may have ended by then. While
        there is no worker at all, it waits. Raises `StoreError` when the store does not take it.
        """
        if delay is None and at is None:
            return self._announce([event], subject)[0]
        return self._announce_later(checked_event(event), subject, Delay(delay, at))

    def call_off(self, key: str) -> bool:
        """
        Call off a delayed event by its `Announcement.key`, in whichever process.

        True promises that nobody will hear of it. False when it has left, or may be leaving right now.
        """
        owner, _, event_id = key.partition("/")
        return self.runtime.store.unschedule(owner, f"event:{event_id}")

    def publish_many(self, events: Iterable[Event], subject: str | None = None) -> int:
        """
        Announce any number of events, and return how many; see `publish`. ``event.about("ORD-1")`` gives each its own
        subject.

        They are taken from ``events`` and sent a few hundred at a time, so that a generator of millions needs little
        memory. Each batch is confirmed before the next is made, and sent only if all in it are valid.
        In a `PublishError`, ``before`` is how many were announced with earlier batches; ``confirmed`` and
        ``unconfirmed`` are the envelopes of the batch that failed.
        """
        count = 0
        iterator = iter(events)
        while batch := list(islice(iterator, BATCH)):
            try:
                self._announce(batch, subject)
            except PublishError as error:
                error.before = count
                raise
            count += len(batch)
        return count

    def _announce(self, events: Sequence[Event], subject: str | None) -> list[Envelope]:
        context = current()
        events = [checked_event(event) for event in events]
        if context is not None and context.service == self.service_name:
            return [context.announce(event, subject) for event in events]
        envelopes = [
            event.sealed(
                id=str(uuid4()), source=self.service_name, subject=subject, cause=None, time=self.runtime.now()
            )
            for event in events
        ]
        self.runtime.publisher.announce(envelopes)
        return envelopes

    def _announce_later(self, event: Event, subject: str | None, delay: Delay) -> Announcement:
        context = current()
        if context is not None and context.service == self.service_name:
            envelope, owner = context.announce(event, subject, delay), context.handler
            # Until the handler has succeeded it is in the handler's hands, and then in the store.
            call_off = partial(self._withdraw, context, f"{owner}/{envelope.id}")
        else:
            now = self.runtime.now()
            envelope = event.sealed(
                id=str(uuid4()), source=self.service_name, subject=subject, cause=None, time=delay.moment(now)
            )
            owner = DELAYED
            message, store = self.runtime.publisher.message_for(envelope), self.runtime.store
            store.schedule(owner, Scheduled(f"event:{envelope.id}", message, delay.seconds(store.now)))
            if not store.tended(owner):
                logger.warning(
                    "%s waits in the store, and no worker of this namespace that uses this store has run in the last "
                    "%.0f seconds. It leaves once one does.",
                    envelope,
                    TENDED,
                )
            call_off = partial(self.call_off, f"{owner}/{envelope.id}")
        return Announcement(envelope, envelope.time, f"{owner}/{envelope.id}", call_off)

    def _withdraw(self, context: Context, key: str) -> bool:
        if current() is context:
            return context.withdraw(key.partition("/")[2])
        return self.call_off(key)

    # -- operating -----------------------------------------------------------------------------------------------

    @property
    def listener(self) -> Listener:
        """The function that is called with each dead letter of this service: see `dead_letter`."""
        return self._listener

    @property
    def publisher(self) -> Publisher:
        """Sends events to the broker. ``unheard`` counts the events that no handler heard, by type."""
        return self.runtime.publisher

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of every service that uses this store: find, get, replay, discard."""
        return self.runtime.dead_letters

    @property
    def joins(self) -> Joins:
        """The pending joins of every service that uses this store: find, cancel, fire."""
        return self.runtime.joins

    def backlog(self) -> dict[str, Backlog]:
        """
        The messages that wait in the store to be sent, by handler: of every service that uses this store.

        "delayed" are the delayed events that no handler announced. Raises `StoreError`.
        """
        return self.runtime.backlog()

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The worker program that Celery runs for this app."""
        return self.subclass_with_self(WORKER_CLASS)

    # -- inside --------------------------------------------------------------------------------------------------

    def _subscribe(self, subscription: Subscription) -> None:
        if any(other.name == subscription.name for other in self.subscriptions):
            raise DeclarationError(
                f"{subscription.name} is declared twice. A handler's name is its queue's, so give one of them another: "
                f'name="..."'
            )
        longest = timedelta(seconds=subscription.retry.cap)
        if longest >= self.terms.retention:
            raise DeclarationError(
                f"{subscription.name}: a retry may wait {longest}, and after {self.terms.retention} its attempts would "
                f"be forgotten. Lower the cap, or raise Service(terms=Terms(retention=...))."
            )
        subscription = surrounded(subscription, self._around)
        self.subscriptions.append(subscription)
        if self.finalized:
            self.register_task(self.runtime.handler_task(subscription))

    def _register_tasks(self, **_: Any) -> None:
        for subscription in self.subscriptions:
            self.register_task(self.runtime.handler_task(subscription))
        self.register_task(self.runtime.dead_letter_task(self._listener))

    def _connect(self) -> Any:
        return self.connection_for_write()

    def _handler_name(self, function: Callable[..., Any], name: str | None) -> str:
        own = name if name is not None else function.__name__
        check_name("handler", own)
        if own == "dead_letters":
            raise DeclarationError(f"{describe(function)}: dead_letters is the name of the service's own queue.")
        return f"{self.service_name}.{own}"
