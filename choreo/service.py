"""
A service: a Celery app that reacts to events. This file declares and publishes; `choreo.runtime` makes the parts.

A module that needs pydantic or redis is imported where it is used: they are as slow to import as half of Celery.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Celery
from celery.exceptions import CeleryError
from celery.signals import import_modules
from kombu.utils.imports import symbol_by_name

from choreo.announcement import Announcement, Count
from choreo.cached import cached_property
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
from choreo.errors import (
    BlockedLoopWarning,
    ChoreoError,
    DeclarationError,
    HandlerEndedError,
    InvalidEventError,
    PublishError,
    UndeclaredEventWarning,
)
from choreo.events.ids import new_id
from choreo.events.metadata import checked_meta, inherited, joined
from choreo.events.ready import in_loop, refuse_await
from choreo.runtime import WORKER_CLASS, WORKER_STEPS, Runtime
from choreo.store.terms import Terms

if TYPE_CHECKING:
    from choreo.broker.publisher import Publisher
    from choreo.declare.around import Around
    from choreo.declare.batch import Batch
    from choreo.declare.description import ServiceDescription
    from choreo.declare.join import By, Part
    from choreo.declare.order import Series
    from choreo.declare.story import Events
    from choreo.declare.subscription import Subscription, Topic
    from choreo.delivery.listener import Listener
    from choreo.events.envelope import Envelope
    from choreo.events.event import Event
    from choreo.events.message import Message
    from choreo.events.metadata import Meta
    from choreo.observe.observer import Observer
    from choreo.operate.dead_letters import DeadLetters
    from choreo.operate.joins import Joins
    from choreo.operate.pauses import HandlerPauses
    from choreo.operate.repairs import Repairs
    from choreo.operate.rerun import Plan, Reruns
    from choreo.operate.schedule import Schedules
    from choreo.operate.stories import Stories
    from choreo.store.schedule import Backlog

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound="Around")

#: The most events of `Service.publish_many` that are confirmed together.
BATCH_EVENTS = 500
#: The events that `Service.apublish_many` makes before it lets other coroutines run: a millisecond's work.
EVENTS_AT_A_TIME = 50


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
    - ``choreo_max_hops``: the most events that may lead to an event, one after the other. With more, services answer
      each other without an end, and the event in hand becomes a dead letter. Default: 100; 0: no limit.
    - ``choreo_record_length``: about how many runs of each handler the store records, for `choreo trace` and other
      questions about the past. Default: 10,000; 0: none. ``choreo_record_lifetime``: seconds, or a timedelta, after
      which a run is dropped. Default: 7 days. ``choreo_record_sample``: the share of stories to record. Default: 1.
      ``choreo_record_events``: True keeps the events with their runs, so that `choreo rerun` finds their data. Default:
      False.
    - ``choreo_log_format``: "text" (the default) or "json", for all that a worker logs: see docs/logging.md.
    - ``choreo_fast_lane``: False turns the fast lane off. The promises stay the same, and the service is slower.
    - ``choreo_bundles``: False hands a child of the prefork pool on Redis one message at a time.
    - ``choreo_allow_edit``: True lets people send the event of a dead letter with other data, as a new event: see
      `DeadLetters.edit`. Default: they may not.
    - ``choreo_signing_keys``: name → key; the first one signs events, all of them verify. Default: none, nothing is
      signed. ``choreo_signing``: "require" (the default) or "accept", for events that are not signed.
      ``choreo_publishers``: who may announce which types. See docs/security.md.
    - ``choreo_intake``: True lets the workers take over what programs in other languages push to ``choreo.intake``.
      Default: they do not. ``choreo_cloudevents_exchange``: an exchange of RabbitMQ that gets each announced event as
      a plain CloudEvent, too. Default: none. See docs/other-languages.md.
    - ``choreo_flower_changes``: True lets choreo's tabs in Flower change something. Default: they only read.
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
        self.runtime.wake_workers = self._wake_workers
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
        undoes: Callable[..., Any] | type[Event] | None = None,
        by: By = None,
        within: timedelta | None = None,
        unless: type[Event] | tuple[type[Event], ...] = (),
        no_undo: str | None = None,
        batch: Batch | None = None,
        retry: Retry | None = None,
        name: str | None = None,
        around: Sequence[Around] = (),
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        rate_limit: str | float | None = None,
        priority: int | None = None,
        concurrency: int | None = None,
        sequential_by: str | Series | None = None,
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
        ``concurrency``: at most so many runs of this handler take place at a time, in all workers of the service
        together. The other events wait, and hold up no other handler.
        ``sequential_by="subject"``, or a field of the event: events of one key are handled one after another, in the
        order in which they were announced as far as it is known. A retry holds its key, unless
        ``sequential_by=Series("subject", retries_pass=True)``. See docs/ordering.md.

        With ``undoes`` the function takes back an effect, because these events (failures) demand it:

            >>> @app.on(OrderRejected, undoes=charge_customer)
            ... def refund_customer(charged: PaymentCharged) -> PaymentRefunded: ...

        It is called once for each event that announced the effect, if a failure comes for the same subject, before the
        effect or after it. It gets the event of the effect and, if it has a second parameter, that of the failure.

        - ``undoes``: a handler of this service, above, whose return annotation names the event of its effect; or the
          event, for an effect of another service. Of several events, the first parameter says which one is meant.
        - ``by``: a field that takes the place of the subject, as for `join`. ``within``: how long an effect waits for a
          failure, and a failure for an effect. Default: 7 days. Then the effect stands, and nothing is called.
        - ``unless``: after one of these events the effect of its key stands for good.

        ``no_undo`` says why the effect of this handler needs no undoing, for `choreo check`.

        With ``batch`` the function is called with a list of events, which are committed together: see `Batch`.

            >>> @app.on(OrderPlaced, batch=Batch(size=100, wait=0.2))
            ... def index(orders: list[OrderPlaced]) -> None: ...

        Raises `DeclarationError` if the function cannot take these events, or its name is taken.
        """
        from choreo.declare.around import checked_chain
        from choreo.declare.batch import checked_batch
        from choreo.declare.order import checked_concurrency, checked_sequential, refuse_order
        from choreo.declare.reaction import describe, inspect_function
        from choreo.declare.subscription import Subscription, check_single, classes_in, newest_of, patterns_of
        from choreo.declare.undo import check_only_undo, checked_reason, make_undo
        from choreo.declare.views import check_reads

        own = ["undoes", "by", "within", "unless", "no_undo", "batch", "retry", "name", "around", *TASK_OPTIONS]
        own += ["concurrency", "sequential_by"]
        check_options("@app.on", unknown, own)
        check_called("on", topics)

        def declare(function: F) -> F:
            where = describe(function)
            if not topics:
                raise DeclarationError(f"@app.on() above {where} names no event. Write @app.on(OrderPlaced).")
            reaction = inspect_function(function)
            common: dict[str, Any] = {
                "service": self.service_name,
                "name": self._handler_name(function, name),
                "reaction": reaction,
                "retry": self.retry if retry is None else checked_retry(retry, where),
                "around": checked_chain(around, where),
                "options": checked_task_options(
                    where,
                    time_limit=time_limit,
                    soft_time_limit=soft_time_limit,
                    rate_limit=rate_limit,
                    priority=priority,
                ),
            }
            in_batches = None
            apart = {"undoes": undoes, "concurrency": concurrency, "sequential_by": sequential_by}
            if undoes is None or batch is not None:
                in_batches = checked_batch(batch, reaction, where, apart)
            if undoes is None:
                check_only_undo(where, by=by, within=within, unless=unless)
                heard = newest_of(topics)
                patterns = patterns_of(heard, where)
                check_single(reaction, heard)
                common["reaction"] = reaction.hearing(classes_in(heard))
                check_reads(common["reaction"], [classes_in(heard)])
                common["concurrency"] = checked_concurrency(where, concurrency)
                common["sequential"] = checked_sequential(where, sequential_by, heard)
                reason = checked_reason(where, no_undo)
                self._subscribe(Subscription(patterns=patterns, no_undo=reason, batch=in_batches, **common))
                return function
            refuse_order(where, "undoes", concurrency=concurrency, sequential_by=sequential_by)
            cancels = unless if isinstance(unless, tuple) else (unless,)
            chosen: dict[str, Any] = {"within": within, "unless": cancels, "by": by}
            self._subscribe(make_undo(*topics, undoes=undoes, subscriptions=self.subscriptions, **chosen, **common))
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
        no_undo: str | None = None,
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
        - ``no_undo``, ``retry``, ``name``, ``around``, ``time_limit``, ``soft_time_limit``, ``rate_limit``,
          ``priority``: see `on`.

        Raises `DeclarationError` if one of the functions cannot take these events, or an option does not fit them.
        """
        from choreo.declare.around import checked_chain
        from choreo.declare.join import make_join
        from choreo.declare.reaction import describe, inspect_function
        from choreo.declare.undo import checked_reason

        own = ["by", "at_least", "within", "on_timeout", "unless", "rounds", "no_undo", "retry", "name", "around"]
        check_options("@app.join", unknown, [*own, *TASK_OPTIONS])
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
                    no_undo=checked_reason(where, no_undo),
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
        ``async def`` middleware awaits ``proceed()``. All that it surrounds must be ``async def``, too. Plain
        middleware works around both kinds of handlers. See docs/async.md.
        Raises `DeclarationError` unless the function can be called with a context and ``proceed``, and for
        ``async def`` middleware around a plain handler.
        """
        from choreo.declare.around import checked_around, surrounded

        chain = [*self._around, checked_around(function, f"Service({self.service_name!r})")]
        self.subscriptions[:] = [surrounded(known, chain) for known in self.subscriptions]
        self._around = chain
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
    def publish(
        self, event: Event, subject: str | None = None, *, meta: Meta | None = None, caused_by: Envelope | None = None
    ) -> Envelope: ...

    @overload
    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float,
        meta: Meta | None = None,
        caused_by: Envelope | None = None,
    ) -> Announcement: ...

    @overload
    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        at: datetime,
        meta: Meta | None = None,
        caused_by: Envelope | None = None,
    ) -> Announcement: ...

    def publish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        meta: Meta | None = None,
        caused_by: Envelope | None = None,
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

        ``caused_by`` is the event that this one follows from: it stays in the same story, and inherits subject and
        metadata. Only outside of handlers: inside, that is the event in hand. `choreo publish --caused-by` finds it by
        its id.

        It waits for the broker. In a coroutine write ``await app.apublish(...)``: ``await app.publish(...)`` raises
        `AwaitError` before anything is announced, and a call that would block an event loop is a `BlockedLoopWarning`.
        """
        if in_loop():
            self._check_loop("publish", sys._getframe(1))
        self._check_cause(caused_by)
        if delay is None and at is None:
            return self._announce([event], subject, meta, caused_by)[0]
        return self._announce_later(checked_event(event), subject, Delay(delay, at), meta, caused_by)

    @overload
    async def apublish(
        self, event: Event, subject: str | None = None, *, meta: Meta | None = None, caused_by: Envelope | None = None
    ) -> Envelope: ...

    @overload
    async def apublish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float,
        meta: Meta | None = None,
        caused_by: Envelope | None = None,
    ) -> Announcement: ...

    @overload
    async def apublish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        at: datetime,
        meta: Meta | None = None,
        caused_by: Envelope | None = None,
    ) -> Announcement: ...

    async def apublish(
        self,
        event: Event,
        subject: str | None = None,
        *,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        meta: Meta | None = None,
        caused_by: Envelope | None = None,
    ) -> Envelope | Announcement:
        """
        Announce an event from a coroutine. Options, result, promises and errors are those of `publish`.

        It never blocks the event loop: a thread connects, sends and waits for the broker. Events that coroutines
        announce at the same time are sent as one batch, and each has its own result. Inside a handler of this service
        the event joins those that the handler returns, and nothing waits.

        If the await is cancelled, an event that the thread has not taken yet is not sent. Another one may have been
        announced: `choreo.unconfirmed` gets its envelope from the error. A delayed event is called off.
        """
        self._check_cause(caused_by)
        if delay is None and at is None:
            return (await self._aannounce([event], subject, meta, caused_by))[0]
        return await self._aannounce_later(checked_event(event), subject, Delay(delay, at), meta, caused_by)

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
        if in_loop():
            self._check_loop("publish_many", sys._getframe(1))
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

    async def apublish_many(
        self, events: Iterable[Event] | AsyncIterable[Event], subject: str | None = None, *, meta: Meta | None = None
    ) -> int:
        """
        Announce any number of events from a coroutine, with the options, result, promises and errors of `publish_many`.

        ``events`` may also be an async generator. See `apublish` for what it does to the event loop. If the await is
        cancelled, the batches before are announced, and `choreo.unconfirmed` gets the events of the batch in hand.
        """
        check_events(events)
        count = 0
        async for batch in _batches(events):
            try:
                await self._aannounce(batch, subject, meta)
            except PublishError as error:
                error.before = count
                raise
            count += len(batch)
        return count

    def _check_cause(self, cause: Envelope | None) -> None:
        if cause is not None and self._own_context() is not None:
            raise InvalidEventError("caused_by=...: in a handler, the event in hand is the cause. Leave it out.")

    def _check_loop(self, called: str, caller: FrameType) -> None:
        """Refuse an await of a blocking call, and warn of one that blocks the event loop of this thread."""
        refuse_await(called, caller)
        if self._own_context() is None:
            warnings.warn(
                f"app.{called}(...) waits for the broker, and no other coroutine of this event loop runs meanwhile. "
                f"Write: await app.a{called}(...)",
                BlockedLoopWarning,
                stacklevel=3,
            )

    def _announce(
        self, events: Sequence[Event], subject: str | None, meta: Meta | None, cause: Envelope | None = None
    ) -> list[Envelope]:
        inside, outside = self._prepared(events, subject, meta, cause)
        return [*inside, *self.runtime.publisher.announce(outside)] if outside else inside

    async def _aannounce(
        self, events: Sequence[Event], subject: str | None, meta: Meta | None, cause: Envelope | None = None
    ) -> list[Envelope]:
        inside: list[Envelope] = []
        outside: list[Envelope] = []
        for start in range(0, len(events), EVENTS_AT_A_TIME):
            if start:
                await asyncio.sleep(0)
            within, left = self._prepared(events[start : start + EVENTS_AT_A_TIME], subject, meta, cause)
            inside, outside = inside + within, outside + left
        return [*inside, *await (await self._apublisher()).aannounce(outside)] if outside else inside

    async def _apublisher(self) -> Publisher:
        """The publisher. Making it takes a moment: it imports the brokers' clients, and reads the configuration."""
        runtime = self.runtime
        if "publisher" not in vars(runtime):
            from choreo.offload import in_thread, made_once

            await in_thread(lambda: made_once(lambda: runtime.publisher))
        return runtime.publisher

    def _prepared(
        self, events: Sequence[Event], subject: str | None, meta: Meta | None, cause: Envelope | None
    ) -> tuple[list[Envelope], list[Envelope]]:
        """The events that have joined those of the handler, and those that have to be sent now."""
        events = [checked_event(event) for event in events]
        given = None if meta is None else checked_meta(meta)
        context = self._own_context()
        inside: list[Envelope] = []
        if context is not None:
            # The handler may end meanwhile, if this is a thread with a copy of its context.
            with suppress(HandlerEndedError):
                for event in events:
                    inside.append(context.announce(event, subject, meta=given))
                return inside, []
        outside = events[len(inside) :]
        self._check_declared(outside)
        return inside, [self._sealed(event, subject, context, given, cause=cause) for event in outside]

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
                    stacklevel=5,
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
        cause: Envelope | None = None,
    ) -> Envelope:
        """
        The envelope of an event that leaves now. ``ended`` is the context of a handler that has ended, or None.

        ``cause`` is the event that caused it, outside of handlers.
        """
        now = self.runtime.now()
        handed = ended.meta if ended else inherited([cause.extensions], cause.extensions) if cause else {}
        sealed = event.sealed(
            id=new_id(),
            source=self.service_name,
            subject=ended.about if ended and subject is None else subject,
            cause=ended.envelope if ended else cause,
            time=now if delay is None else delay.moment(now),
            extensions=joined(handed, given or {}) if handed or given else None,
        )
        if ended is not None and sealed.hops > self.runtime.max_hops:
            from choreo.delivery.loop import endless

            raise endless(self.runtime.store, ended.envelope, [sealed], self.runtime.max_hops)
        return sealed

    def _announce_later(
        self, event: Event, subject: str | None, delay: Delay, meta: Meta | None, cause: Envelope | None
    ) -> Announcement:
        context, given = self._own_context(), checked_meta(meta)
        inside = self._announced_later(event, subject, delay, context, given)
        if inside is not None:
            return inside
        return self._keep(*self._prepared_later(event, subject, delay, context, given, cause), delay)

    async def _aannounce_later(
        self, event: Event, subject: str | None, delay: Delay, meta: Meta | None, cause: Envelope | None
    ) -> Announcement:
        context, given = self._own_context(), checked_meta(meta)
        inside = self._announced_later(event, subject, delay, context, given)
        if inside is not None:
            return inside
        from choreo.offload import in_thread

        await self._apublisher()
        kept = self._prepared_later(event, subject, delay, context, given, cause)
        return await in_thread(lambda: self._keep(*kept, delay), undo=Announcement.cancel)

    def _announced_later(
        self, event: Event, subject: str | None, delay: Delay, context: Context | None, given: Meta
    ) -> Announcement | None:
        """The handle of an event that has joined those of a handler; None if it has to be kept now."""
        if context is not None:
            with suppress(HandlerEndedError):
                envelope = context.announce(event, subject, delay, given)
                key = f"{context.handler}/{envelope.id}"
                # The store has it after the handler has succeeded. Until then only its context knows it.
                return Announcement(envelope, envelope.time, key, partial(self._withdraw, context, key))
        return None

    def _prepared_later(
        self,
        event: Event,
        subject: str | None,
        delay: Delay,
        context: Context | None,
        given: Meta,
        cause: Envelope | None,
    ) -> tuple[Envelope, Message]:
        """A delayed event, and the message that the store is to keep."""
        self._check_declared([event])
        publisher = self.runtime.publisher
        envelope = publisher.stamped(self._sealed(event, subject, context, given, delay, cause))
        return envelope, publisher.message_for(envelope)

    def _keep(self, envelope: Envelope, message: Message, delay: Delay) -> Announcement:
        """Let the store keep a delayed event until it is due."""
        from choreo.store.schedule import DELAYED, TENDED, Scheduled

        publisher, store = self.runtime.publisher, self.runtime.store
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

    def find_event(self, what: str) -> Envelope | None:
        """
        The event with this id, or that of the dead letter with this id; None if nothing is known of it.

        It may be without its data, which the record of runs does not keep. Raises `StoreError`.
        """
        return self.runtime.events.cause(what)

    @property
    def reruns(self) -> Reruns:
        """Lets a handler of any service that uses this store handle an event again: plan, run."""
        return self.runtime.reruns

    def rerun(
        self,
        handler: str,
        what: str,
        *,
        data: dict[str, Any] | None = None,
        new_key: bool = False,
        reason: str = "",
        who: str = "",
    ) -> Plan:
        """
        Let a handler handle an event again: the one with this id, or the only one that it handled about this subject.

        Its effects happen again. With ``new_key`` it has a new idempotency key, and its events have new ids: see
        `choreo.operate.rerun`. ``data`` are the fields of the event, if they are kept nowhere. Raises `RerunError`.
        """
        plan = self.reruns.plan(handler, what, data)
        return self.reruns.run(plan, new_key=new_key, reason=reason, who=who)

    @property
    def schedule(self) -> Schedules:
        """The schedules of every service that uses this store: list, now, drop."""
        return self.runtime.schedule

    @property
    def pauses(self) -> HandlerPauses:
        """The pauses of every handler that uses this store: pause, resume, list."""
        return self.runtime.pauses

    @property
    def repairs(self) -> Repairs:
        """What people have changed on this platform: note, recent."""
        return self.runtime.repairs

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

    def _wake_workers(self, services: Sequence[str]) -> None:
        """Have the workers of these services look at the pauses at once. If that fails, they look a second later."""
        from choreo.worker.control import wake_workers

        wake_workers(self, services)

    def _connect(self) -> Any:
        return self.connection_for_write()

    def _handler_name(self, function: Callable[..., Any], name: str | None) -> str:
        from choreo.declare.reaction import describe, name_of

        own = name if name is not None else name_of(function)
        check_name("handler", own)
        if own == "dead_letters":
            raise DeclarationError(f"{describe(function)}: dead_letters is the name of the service's own queue.")
        return f"{self.service_name}.{own}"


async def _batches(events: Iterable[Event] | AsyncIterable[Event]) -> AsyncIterator[list[Event]]:
    """The events, `BATCH_EVENTS` at a time."""
    if isinstance(events, AsyncIterable):
        batch: list[Event] = []
        async for event in events:
            batch.append(event)
            if len(batch) == BATCH_EVENTS:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    iterator = iter(events)
    while several := list(islice(iterator, BATCH_EVENTS)):
        yield several


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
        # The pages are a room above this one.
        symbol_by_name("choreo.web.flower:complete")()
