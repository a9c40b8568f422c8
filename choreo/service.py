"""
A service: a Celery app that reacts to events. This file declares and publishes; `choreo.runtime` makes the parts.

A module that needs pydantic or redis is imported where it is used: they are as slow to import as half of Celery.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Celery
from celery.exceptions import CeleryError
from celery.signals import import_modules
from kombu.utils.imports import symbol_by_name

from choreo.announcement import Announcement, Count
from choreo.declare.checks import (
    TASK_OPTIONS,
    check_called,
    check_events,
    check_listener,
    check_name,
    check_options,
    check_service_options,
    checked_announces,
    checked_event,
    checked_retry,
    checked_task_options,
)
from choreo.declare.context import Context, current
from choreo.declare.delay import Delay
from choreo.declare.retry import Retry
from choreo.declare.settings import ServiceSettings, unreadable
from choreo.errors import ChoreoError, DeclarationError, HandlerEndedError, PublishError, UndeclaredEventWarning
from choreo.events.ids import new_id
from choreo.events.metadata import checked_meta, joined
from choreo.runtime import WORKER_CLASS, WORKER_STEPS, Runtime
from choreo.store.terms import Terms

if TYPE_CHECKING:
    from choreo.broker.publisher import Publisher
    from choreo.declare.around import Around
    from choreo.declare.description import ServiceDescription
    from choreo.declare.join import By, Part
    from choreo.declare.story import Events
    from choreo.declare.subscription import Subscription, Topic
    from choreo.delivery.listener import Listener
    from choreo.events.envelope import Envelope
    from choreo.events.event import Event
    from choreo.events.metadata import Meta
    from choreo.observe.observer import Observer
    from choreo.operate.dead_letters import DeadLetters
    from choreo.operate.joins import Joins
    from choreo.operate.stories import Stories
    from choreo.store.schedule import Backlog

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound="Around")

#: The most events of `Service.publish_many` that are confirmed together.
BATCH_EVENTS = 500


class Service(Celery):
    """
    A Celery app that reacts to events, and announces its own.

        >>> app = Service("payment")
        >>> @app.on(OrderPlaced)
        ... def charge_customer(order: OrderPlaced) -> PaymentCharged | PaymentFailed:
        ...     return PaymentCharged(amount_cents=order.total_cents)

    ``celery -A handlers.payment worker`` runs it. Queues, node name, late acks and JSON are set. A service lives as
    long as its process: make it at module level, and declare its handlers before a worker starts. Publishing is safe in
    threads, and in a process that is forked later.

    ``name`` is the service's name on the broker: it begins the name of each of its queues and tasks.
    ``retry`` is for every handler that declares none. ``terms`` are the times for which the store waits and remembers.
    ``announces`` are the classes of the events that it announces outside of handlers: in a web application, a script or
    an ordinary task. Readers of `choreo map` then know of them before the first one is announced. If it is given, the
    first event of each other type that is announced outside of handlers gives an `UndeclaredEventWarning`; it leaves
    all the same.
    ``config`` is a module name, an object or a dict with settings, as for `celery.Celery`; None: no configuration. By
    default a module ``celeryconfig`` is read, if there is one on the path. All other options go to `celery.Celery`:
    its own, and settings, such as ``choreo_namespace="staging"``.
    Raises `DeclarationError` for a name or a value that cannot work, and for an option that neither class has. A
    ``choreo_...`` setting that does not exist raises it when the configuration is first read, and so does publishing
    without a ``broker_url``.

    These of the settings are choreo's:

    - ``choreo_store_url``: the Redis, or the Redis Cluster, that keeps joins, retries and dead letters. Default: the
      broker, if it is Redis.
    - ``choreo_namespace``: separates whole platforms that share a broker ("staging"). Default: none.
    - ``choreo_unheard``: the reaction to an event that no handler listens to: "ignore", "log" (the default: one warning
      per type and process) or "error" (`publish` raises). ``app.publisher.unheard`` counts them per type.
    - ``choreo_shutdown_timeout``: seconds after which a worker that was told to stop ends its handlers. Default: 25;
      None: it waits for them without a limit.
    - ``choreo_tracing``: whether spans of OpenTelemetry are recorded. Default: if the program has set a tracer provider
      before its first event.
    - ``choreo_record_length``: about how many runs of each handler the store records, for `choreo trace` and other
      questions about the past. Default: 10,000; 0: none. ``choreo_record_lifetime``: seconds, or a timedelta, after
      which a run is dropped. Default: 7 days. ``choreo_record_sample``: the share of stories to record. Default: 1.
    - ``choreo_log_format``: "text" (the default) or "json", for all that a worker logs: see docs/logging.md.
    - ``choreo_fast_lane``: False turns the fast lane off. The promises stay the same, and the service is slower.
    - ``choreo_version``: the version of the service's code, such as a commit, for `choreo map` and the like. Default:
      the version of the distribution that has its module.
    """

    amqp_cls = "choreo.broker.connections:ServiceAMQP"
    events_cls = "choreo.worker.worker_events:ServiceEvents"
    control_cls = "choreo.worker.control:ServiceControl"
    log_cls = "choreo.worker.logs:ServiceLogging"

    def __init__(
        self,
        name: str,
        *,
        retry: Retry = Retry(),  # noqa: B008 - immutable
        terms: Terms = Terms(),  # noqa: B008 - immutable
        announces: Iterable[type[Event]] | None = None,
        config: str | object | None = "celeryconfig",
        **options: Any,
    ) -> None:
        check_name("service", name)
        check_service_options(options, ["retry", "terms", "announces", "config"])
        self.service_name = name
        self.retry = checked_retry(retry, f"Service({name!r})")
        self.terms = terms
        #: The events that it announces outside of handlers. None: it does not say.
        self.announces = checked_announces(announces, f"Service({name!r})")
        #: The types that it has announced outside of handlers, of which a warning was logged.
        self._warned: set[str] = set()
        self.subscriptions: list[Subscription] = []
        #: Middleware for every handler of this service, outermost first.
        self._around: list[Around] = []
        self._listener: Listener | None = None
        #: The parts of this service, for workers and tools.
        self.runtime = Runtime(name, terms, self.subscriptions, lambda: self.conf, self._connect, lambda: self.tasks)
        self.runtime.describe, self.runtime.module = self.describe, _maker_of(self)
        if config == "celeryconfig" and importlib.util.find_spec("celeryconfig") is None:
            config = None
            self.runtime.is_unconfigured = True
        super().__init__(name, config_source=config, **options)
        ServiceSettings.adopt(self._conf)
        self.steps["worker"].update(WORKER_STEPS)
        self.on_after_finalize.connect(self._register_tasks, weak=False)

    # -- declaring -----------------------------------------------------------------------------------------------

    def on(
        self,
        *topics: Topic,
        retry: Retry | None = None,
        name: str | None = None,
        around: Sequence[Around] = (),
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        rate_limit: str | float | None = None,
        priority: int | None = None,
        **unknown: Any,
    ) -> Callable[[F], F]:
        """
        Declare a handler: a function that is called with each event of these types, or that matches these patterns.

        The function stays a plain function. It may also be a bound method, a `functools.partial` or an object that can
        be called. A parameter that reads no event keeps its default. The events that it returns are announced if it
        succeeds. If it raises, it is called again as ``retry`` says (default: the service's), and then the event
        becomes a dead letter.
        Its task and its queue are named ``<service>.<function>``, or ``<service>.<name>``: if you rename the function,
        set ``name`` to the old name. ``around`` is middleware for this handler only, outermost first: see `around`.
        ``time_limit`` and ``soft_time_limit`` (seconds; only with the prefork pool), ``rate_limit`` ("10/m", per
        worker) and ``priority`` are Celery's options for this handler's task. Events are not sorted by priority: it is
        for messages that Celery sends for this task.
        Raises `DeclarationError` if the function cannot take these events, or its name is taken.
        """
        from choreo.declare.around import checked_chain
        from choreo.declare.reaction import describe, inspect_function
        from choreo.declare.subscription import Subscription, check_single, patterns_of

        check_options("@app.on", unknown, ["retry", "name", "around", *TASK_OPTIONS])
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
                    around=checked_chain(around, where),
                    options=checked_task_options(
                        where,
                        time_limit=time_limit,
                        soft_time_limit=soft_time_limit,
                        rate_limit=rate_limit,
                        priority=priority,
                    ),
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
        rounds: bool = False,
        retry: Retry | None = None,
        name: str | None = None,
        around: Sequence[Around] = (),
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        rate_limit: str | float | None = None,
        priority: int | None = None,
        **unknown: Any,
    ) -> Callable[[F], F]:
        """
        Declare a handler that waits until all these events have arrived for one subject, and is then called once.

        The events may arrive in any order, and more than once. ``Several(ItemPacked, 3)`` waits for three of a type.

        - ``by`` names a field that takes the place of the subject: ``by="order_id"``, or one per type,
          ``by={OrderConfirmed: "order_id", PaymentCharged: "reference"}`` (None: the subject).
        - ``at_least``: this many of the parts are enough. The handler is called with None for the missing ones.
        - ``within``: the time from the arrival of the first part to the deadline. Default: an hour.
        - ``on_timeout`` is called at the deadline with the parts that have arrived (None for the missing ones). Without
          it, they become a dead letter.
        - ``unless``: one of these events cancels the join, also for parts that come later.
        - ``rounds``: True if the same key is joined again and again (a book is lent, returned, lent again). The first
          new event after a join was settled begins a new round; an event that came before changes nothing. ``unless``
          then cancels the round that is pending. Without it, events of a key are ignored for as long as its join is
          remembered, with a WARNING in the log.
        - ``retry``, ``name``, ``around``, ``time_limit``, ``soft_time_limit``, ``rate_limit``, ``priority``: see `on`.

        Raises `DeclarationError` if one of the functions cannot take these events, or an option does not fit them.
        """
        from choreo.declare.around import checked_chain
        from choreo.declare.join import make_join
        from choreo.declare.reaction import describe, inspect_function

        check_options(
            "@app.join",
            unknown,
            ["by", "at_least", "within", "on_timeout", "unless", "rounds", "retry", "name", "around", *TASK_OPTIONS],
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
                    rounds=rounds,
                    around=checked_chain(around, where),
                    options=checked_task_options(
                        where,
                        time_limit=time_limit,
                        soft_time_limit=soft_time_limit,
                        rate_limit=rate_limit,
                        priority=priority,
                    ),
                )
            )
            return function

        return declare

    def story(
        self,
        name: str,
        *,
        begins: Events,
        ends: Events,
        within: timedelta,
        steps: Events = (),
        by: By = None,
        **unknown: Any,
    ) -> None:
        """
        Declare a story: each event that begins it is to be followed by one that ends it, within a time.

            >>> app.story(
            ...     "delivery",
            ...     begins=OrderPlaced,
            ...     steps=[OrderConfirmed, PaymentCharged],
            ...     ends=[DriverAssigned, OrderRejected, PaymentFailed],
            ...     within=timedelta(minutes=45),
            ... )

        choreo follows the story for each subject, in a queue of its own, ``<service>.<name>``. It only watches: it
        neither delays the events nor takes part. If the story has not ended in time, `StoryOverdue` is announced, once.
        ``choreo stories`` and `stories` show the pending stories: the steps that have come, and those that are missing.

        - ``begins``, ``ends``: an event class, or several, one of which is enough. Name the events of a failure among
          those that end the story.
        - ``steps``: events on the way, in the order in which people expect them. They may come in any order or not at
          all; they are shown, and change nothing else.
        - ``within``: the time from the arrival of the first event of the story to its deadline.
        - ``by``: a field that takes the place of the subject, as for `join`.

        There is one story for each key: when it has ended, later events of the key are ignored, for ``within`` or
        `Terms.retention`, whichever is longer. Raises `DeclarationError` for events or options that do not fit.
        """
        from choreo.declare.story import make_story

        check_options("app.story", unknown, ["begins", "steps", "ends", "within", "by"])
        check_name("story", name)
        if name == "dead_letters":
            raise DeclarationError("app.story('dead_letters'): dead_letters is the name of the service's own queue.")
        self._subscribe(
            make_story(
                self.service_name,
                name,
                begins=begins,
                steps=steps,
                ends=ends,
                within=within,
                by=by,
                retry=self.retry,
            )
        )

    def around(self, function: A) -> A:
        """
        Declare middleware: a function that is called around every handler of this service, ``on_timeout`` included.

        It is called once per attempt, and also for handlers that are declared earlier. See docs/middleware.md.

            >>> @app.around
            ... def logged(context: Context, proceed: Proceed) -> None:
            ...     with bound_contextvars(subject=context.subject):
            ...         proceed()

        ``proceed()`` calls the next middleware, or the handler. It returns the events that are going to be announced,
        and raises the handler's errors. An error that the middleware raises is a failure of the handler: it is retried
        or ends in a dead letter. Returning without calling ``proceed``, or calling it twice, is such an error
        (`MiddlewareError`). If the middleware catches the handler's error and returns, the event counts as handled, and
        the events that were announced before the error leave.
        Middleware nests in the order of declaration, the first outermost. That of ``@app.on(..., around=[...])`` and
        ``@app.join(..., around=[...])`` is inside the service's.
        Raises `DeclarationError` unless the function can be called with a context and ``proceed``.
        """
        from choreo.declare.around import checked_around, surrounded

        self._around.append(checked_around(function, f"Service({self.service_name!r})"))
        self.subscriptions[:] = [surrounded(known, self._around) for known in self.subscriptions]
        if self.finalized:
            for subscription in self.subscriptions:
                self.tasks[subscription.name].subscription = subscription
        return function

    def dead_letter(self, function: F = None, **unknown: Any) -> F:  # type: ignore[assignment]
        """
        Declare the function that is called with each dead letter of this service. The letter is logged in any case.

        A worker of the service calls it once per letter. If it raises, it is called again, five times at most with
        growing waits; the letter is kept in any case. The events that it returns or publishes are announced if it
        succeeds: with the correlation id of the event that failed, which is their cause.
        Raises `DeclarationError` if it cannot be called with one dead letter, or the service has such a function.
        """
        from choreo.declare.reaction import describe

        check_options("@app.dead_letter", unknown, [])
        check_listener(function)
        if self._listener is not None:
            raise DeclarationError(
                f"{self.service_name} has a dead-letter handler already: {describe(self._listener)}. "
                f"Remove it, or {describe(function)}."
            )
        self._listener = function
        return function

    def task(self, *args: Any, **options: Any) -> Any:
        """Celery's decorator for an ordinary task. Unlike Celery's, the task is not shared with other apps."""
        return super().task(*args, **{"shared": False, **options})

    # -- announcing ----------------------------------------------------------------------------------------------

    @overload
    def publish(self, event: Event, subject: str | None = None, *, meta: Meta | None = None) -> Envelope: ...

    @overload
    def publish(
        self, event: Event, subject: str | None = None, *, delay: timedelta | float, meta: Meta | None = None
    ) -> Announcement: ...

    @overload
    def publish(
        self, event: Event, subject: str | None = None, *, at: datetime, meta: Meta | None = None
    ) -> Announcement: ...

    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        meta: Meta | None = None,
    ) -> Envelope | Announcement:
        """
        Announce an event to all handlers that listen to it.

        On return the broker holds it for every subscribed queue. Inside a handler of this service, the event joins
        those that the handler returns: it leaves only if the handler succeeds. Its subject is then the handler's,
        unless one is given. A thread with a copy of the handler's context may outlive the handler: an event that it
        announces then leaves at once, with the same subject and correlation id. Raises `PublishError` if the broker
        does not confirm; publishing again is safe. Raises `EventTooLargeError` for more than 256 KiB, and
        `InvalidEventError` for a text that cannot be written as UTF-8.

        With ``delay`` (a timedelta, or seconds) or ``at`` (a moment), the store keeps the event until then, and the
        result is an `Announcement`, whose `Announcement.cancel` calls it off. Any live worker of any service of this
        namespace that uses the same store sends it, at most a quarter of a second late. The program that announced it
        may have ended by then. Without any worker, it waits. Raises `StoreError` if the store does not take it.

        ``meta`` is metadata, such as ``{"tenant": "acme"}``: ``event.meta.extensions["tenant"]`` in a handler. Every
        event that this one causes inherits it. An event that is announced in a handler can be given more, or another
        value, or None, with which it does not inherit the name. Names are lower-case letters and digits; values are
        texts of at most 512 characters, whole numbers or bools. Raises `InvalidEventError` for others.

        It waits for the broker, also if the result is awaited (in any form: ``await``, ``asyncio.create_task``), for
        which a warning is logged. In a coroutine write ``await asyncio.to_thread(app.publish, event)``.
        """
        if delay is None and at is None:
            return self._announce([event], subject, meta)[0]
        return self._announce_later(checked_event(event), subject, Delay(delay, at), meta)

    def call_off(self, key: str) -> bool:
        """
        Call off a delayed event by its `Announcement.key`, from any process.

        True: it will not be sent. False: it has left, or may be leaving right now. Raises `StoreError`.
        """
        name, _, event_id = key.partition("/")
        return self.runtime.store.unschedule(name, f"event:{event_id}")

    def publish_many(self, events: Iterable[Event], subject: str | None = None, *, meta: Meta | None = None) -> int:
        """
        Announce any number of events, and return their number. See `publish` for what it promises of each.

        ``event.about("ORD-1")`` gives an event its own subject. The events are taken from ``events`` and sent 500 at
        a time, so a generator of millions needs little memory. Each batch is confirmed before the next is made, and is
        sent only if all its events are valid.
        In a `PublishError`, ``before`` is the number of events in earlier batches, which are announced; ``confirmed``
        and ``unconfirmed`` are the envelopes of the batch that failed.
        """
        check_events(events)
        count = 0
        iterator = iter(events)
        while batch := list(islice(iterator, BATCH_EVENTS)):
            try:
                self._announce(batch, subject, meta)
            except PublishError as error:
                error.before = count
                raise
            count += len(batch)
        return Count(count)

    def _announce(self, events: Sequence[Event], subject: str | None, meta: Meta | None) -> list[Envelope]:
        events = [checked_event(event) for event in events]
        given = None if meta is None else checked_meta(meta)
        context = self._own_context()
        inside: list[Envelope] = []
        if context is not None:
            # The handler may end meanwhile, if this is a thread with a copy of its context.
            with suppress(HandlerEndedError):
                for event in events:
                    inside.append(context.announce(event, subject, meta=given))
                return inside
        outside = events[len(inside) :]
        self._check_declared(outside)
        envelopes = [self._sealed(event, subject, context, given) for event in outside]
        return [*inside, *self.runtime.publisher.announce(envelopes)]

    def _check_declared(self, events: Iterable[Event]) -> None:
        """Warn of the first event of each type that is announced outside of handlers, and that is not declared."""
        if self.announces is None:
            return
        for event in events:
            kind = event.event_type
            if kind not in self._warned and all(kind != declared.event_type for declared in self.announces):
                self._warned.add(kind)
                warnings.warn(
                    f"{self.service_name} announces {kind} outside of a handler, and does not declare it. The event "
                    f"leaves all the same. Add its class to Service({self.service_name!r}, announces=[...]), which "
                    f"tells readers and `choreo map` what the service announces.",
                    UndeclaredEventWarning,
                    stacklevel=4,
                )

    def _own_context(self) -> Context | None:
        context = current()
        return context if context is not None and context.service == self.service_name else None

    def _sealed(
        self,
        event: Event,
        subject: str | None,
        ended: Context | None,
        given: Meta | None,
        delay: Delay | None = None,
    ) -> Envelope:
        """The envelope of an event that leaves now. ``ended`` is the context of a handler that has ended, or None."""
        now = self.runtime.now()
        return event.sealed(
            id=new_id(),
            source=self.service_name,
            subject=ended.about if ended and subject is None else subject,
            cause=ended.envelope if ended else None,
            time=now if delay is None else delay.moment(now),
            extensions=joined(ended.meta if ended else {}, given or {}) if ended or given else None,
        )

    def _announce_later(self, event: Event, subject: str | None, delay: Delay, meta: Meta | None) -> Announcement:
        context, given = self._own_context(), checked_meta(meta)
        if context is not None:
            with suppress(HandlerEndedError):
                envelope = context.announce(event, subject, delay, given)
                key = f"{context.handler}/{envelope.id}"
                # The store has it after the handler has succeeded. Until then only its context knows it.
                return Announcement(envelope, envelope.time, key, partial(self._withdraw, context, key))
        from choreo.store.schedule import DELAYED, TENDED, Scheduled

        self._check_declared([event])
        publisher, store = self.runtime.publisher, self.runtime.store
        envelope = publisher.stamped(self._sealed(event, subject, context, given, delay))
        message = publisher.message_for(envelope)
        store.schedule(DELAYED, Scheduled(f"event:{envelope.id}", message, delay.seconds(store.now, self.runtime.now)))
        publisher.note_announced([envelope])
        if not store.tended(DELAYED):
            logger.warning(
                "%s waits in the store, and no worker of this namespace that uses this store has run in the last "
                "%.0f seconds. It leaves once one does.",
                envelope,
                TENDED,
            )
        key = f"{DELAYED}/{envelope.id}"
        return Announcement(envelope, envelope.time, key, partial(self.call_off, key))

    def _withdraw(self, context: Context, key: str) -> bool:
        if current() is context:
            with suppress(HandlerEndedError):
                return context.withdraw(key.partition("/")[2])
        return self.call_off(key)

    def describe(self) -> ServiceDescription:
        """What the service declares, as plain data: what it hears and announces, and which fields it reads."""
        from choreo.declare.describing import described

        return described(self.service_name, self.subscriptions, self.announces, self._listener)

    # -- operating -----------------------------------------------------------------------------------------------

    @property
    def listener(self) -> Listener:
        """The function that is called with each dead letter of this service: see `dead_letter`."""
        from choreo.delivery.listener import no_listener

        return no_listener if self._listener is None else self._listener

    @property
    def publisher(self) -> Publisher:
        """Sends events to the broker. Its ``unheard`` counts, per type, the events that no handler listened to."""
        return self.runtime.publisher

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of every service that uses this store: find, get, replay, discard."""
        return self.runtime.dead_letters

    @property
    def joins(self) -> Joins:
        """The pending joins of every service that uses this store: find, cancel, fire."""
        return self.runtime.joins

    @property
    def observe(self) -> Observer:
        """Looks at every service that uses this store, and changes nothing: ``app.observe.map()``."""
        return self.runtime.observe

    @property
    def stories(self) -> Stories:
        """The pending stories of every service that uses this store: find, count, forget."""
        return self.runtime.stories

    def backlog(self) -> dict[str, Backlog]:
        """
        The messages that wait in the store to be sent, by handler, for every service that uses this store.

        The entry "delayed" is for delayed events that were announced outside of a handler. Raises `StoreError`.
        """
        return self.runtime.backlog()

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The worker program that Celery runs for this app."""
        return self.subclass_with_self(WORKER_CLASS)

    def connection_for_read(self, url: Any = None, **options: Any) -> Any:
        """Celery's. Raises `DeclarationError` if no setting names the broker: Celery would take amqp://localhost."""
        return super().connection_for_read(url or self.runtime.broker_url(self.conf.broker_read_url), **options)

    def connection_for_write(self, url: Any = None, **options: Any) -> Any:
        """Celery's. Raises `DeclarationError` if no setting names the broker: Celery would take amqp://localhost."""
        return super().connection_for_write(url or self.runtime.broker_url(self.conf.broker_write_url), **options)

    def prepare_config(self, config: Any) -> Any:
        """Celery's hook: it has read the configuration, and is going to read the defaults. It may do so again later."""
        self._pending_defaults.append(self._add_defaults)
        return super().prepare_config(config)

    # -- inside --------------------------------------------------------------------------------------------------

    def _load_config(self) -> Any:
        try:
            return super()._load_config()
        except (ChoreoError, CeleryError, ImportError):
            raise
        except Exception as error:  # the configuration is a module of the user, and may raise anything
            # Celery takes a KeyError or AttributeError for a setting that is missing.
            raise unreadable(self._config_source, error) from error

    def _get_backend(self) -> Any:
        from choreo.worker.results import without_backend

        return without_backend(super()._get_backend(), self)

    def _add_defaults(self) -> dict[str, Any]:
        ServiceSettings.adopt(self._conf)
        self.runtime.configured()
        return {}

    def _subscribe(self, subscription: Subscription) -> None:
        from choreo.declare.around import surrounded
        from choreo.declare.subscription import warn_of_unknown

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
            warn_of_unknown([subscription])
            self.register_task(self.runtime.handler_task(subscription, *self._task_bases()))

    def _register_tasks(self, **_: Any) -> None:
        from choreo.declare.subscription import warn_of_unknown

        warn_of_unknown(self.subscriptions)
        for subscription in self.subscriptions:
            self.register_task(self.runtime.handler_task(subscription, *self._task_bases()))
        self.register_task(self.runtime.dead_letter_task(self.listener, *self._task_bases()))

    def _task_bases(self) -> list[type]:
        """The user's base class of tasks, from ``task_cls`` or ``app.Task``; empty if it is Celery's own."""
        base = vars(self).get("Task") or symbol_by_name(self.task_cls)
        # Celery derives a class of its own from each base, and gives it the module of the base.
        is_celerys = all(cls is object or cls.__module__.startswith("celery.") for cls in base.__mro__)
        return [] if is_celerys else [base]

    def _connect(self) -> Any:
        return self.connection_for_write()

    def _handler_name(self, function: Callable[..., Any], name: str | None) -> str:
        from choreo.declare.reaction import describe, name_of

        own = name if name is not None else name_of(function)
        check_name("handler", own)
        if own == "dead_letters":
            raise DeclarationError(f"{describe(function)}: dead_letters is the name of the service's own queue.")
        return f"{self.service_name}.{own}"


def _maker_of(app: Service) -> str:
    """The name of the module that makes this service. Called in its `__init__`, or that of a subclass."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_locals.get("self") is app:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


@import_modules.connect(weak=False)
def _complete_flower(sender: Any, **_: Any) -> None:
    """Called when a program loads the modules of an app. Flower does so when it starts."""
    if isinstance(sender, Service) and "flower.views" in sys.modules:
        from choreo.worker.flower import show_all_queues

        show_all_queues()
