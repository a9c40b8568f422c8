"""A service: a Celery app that reacts to events."""

import importlib.util
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar, overload
from urllib.parse import parse_qs
from uuid import uuid4

from celery import Celery
from kombu.serialization import prepare_accept_content

from choreo.announcement import Announcement, Delay
from choreo.broker.amqp import joined
from choreo.broker.ownership import CONSUMER_TIMEOUT
from choreo.broker.publisher import Publisher, Unheard
from choreo.broker.queue import Ahead, Shortcut, task_id
from choreo.broker.topology import Topology
from choreo.checks import (
    check_called,
    check_listener,
    check_name,
    check_options,
    check_service_options,
    checked_event,
    checked_retry,
)
from choreo.context import Context, current
from choreo.dead_letter import DeadLetter, DeadLetters, Reason
from choreo.envelope import Envelope
from choreo.errors import (
    DeclarationError,
    EnvelopeError,
    JoinExpiredError,
    PermanentFailure,
    PublishError,
    UnansweredError,
)
from choreo.event import Event
from choreo.join import By, Join, Part, make_join
from choreo.joins import Joins
from choreo.message import Message
from choreo.parts import unit_of
from choreo.reaction import describe, inspect_function
from choreo.retry import Retry
from choreo.store import DELAYED, Backlog, Scheduled, Store, Terms
from choreo.store.beside import StoreBesideBroker
from choreo.store.memory import MemoryStore
from choreo.store.redis import RedisStore
from choreo.subscription import Subscription, Topic, check_single, patterns_of
from choreo.worker import ahead
from choreo.worker.bindings import BindingsStep
from choreo.worker.clock import TENDED, ClockStep
from choreo.worker.dead_letters import DeadLetterTask, Listener, log_dead_letter
from choreo.worker.grace import SHUTDOWN_TIMEOUT, GraceStep
from choreo.worker.handler import HandlerTask
from choreo.worker.lease import Leases

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

#: How many events of `Service.publish_many` are confirmed together.
BATCH = 500

_REDIS_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys", "sentinel")


class Service(Celery):
    """
    A Celery app that listens to events, and announces its own.

        >>> app = Service("payment")
        >>> @app.on(OrderPlaced)
        ... def charge_customer(order: OrderPlaced) -> PaymentCharged | PaymentFailed:
        ...     return PaymentCharged(amount_cents=order.total_cents)

    ``celery -A handlers.payment worker`` runs it: queues, node name, late acknowledgement and JSON come along.
    A ``celeryconfig`` module on the path is read as Celery's settings; these belong to choreo:

    - ``choreo_store_url``: the Redis that keeps joins, retries and dead letters. The broker, where that is Redis.
    - ``choreo_namespace``: keeps whole platforms apart that share a broker ("staging").
    - ``choreo_unheard``: what happens with an event that nobody listens to: "ignore", "log" (the default: one line
      per type) or "error" (`publish` raises). ``app.publisher.unheard`` counts them per type.
    - ``choreo_shutdown_timeout``: a worker that is told to stop ends its handlers after so many seconds (25).

    ``retry`` holds for every handler that does not say otherwise. ``terms`` say how long the store waits and remembers.
    Everything else goes to `celery.Celery`; what that does not know either is refused.
    """

    amqp_cls = "choreo.broker.amqp:ServiceAMQP"
    events_cls = "choreo.worker.events:ServiceEvents"
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
        self._listener: Listener = log_dead_letter
        #: Whether this process is a worker that runs its handlers itself (every pool but prefork).
        self.in_process = False
        #: By handler, what a worker of the solo pool does with most deliveries: see `choreo.worker.shortcut`.
        self.shortcuts: dict[str, Shortcut] = {}
        if config == "celeryconfig" and importlib.util.find_spec("celeryconfig") is None:
            config = None
        super().__init__(name, config_source=config, **options)
        self.add_defaults(self._defaults)
        self.steps["worker"].update((ClockStep, BindingsStep, GraceStep))
        self.on_after_finalize.connect(self._register_tasks, weak=False)

    # -- declaring -----------------------------------------------------------------------------------------------

    def on(
        self, *topics: Topic, retry: Retry | None = None, name: str | None = None, **unknown: Any
    ) -> Callable[[F], F]:
        """
        Declare a handler: a function that is called with each event of these types, or that matches these patterns.

        It stays a plain function. The event or events that it returns are announced after it succeeded.
        Its task and its queue are called ``<service>.<function>``; ``name`` pins that when the function is renamed.
        Raises `DeclarationError` when the function cannot take these events.
        """
        check_options("@app.on", unknown, ["retry", "name"])
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
        check_options("@app.join", unknown, ["by", "at_least", "within", "on_timeout", "unless", "retry", "name"])
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
                )
            )
            return function

        return declare

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
        return self.store.unschedule(owner, f"event:{event_id}")

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
            event.sealed(id=str(uuid4()), source=self.service_name, subject=subject, cause=None, time=datetime.now(UTC))
            for event in events
        ]
        self.publisher.announce(envelopes)
        return envelopes

    def _announce_later(self, event: Event, subject: str | None, delay: Delay) -> Announcement:
        context = current()
        if context is not None and context.service == self.service_name:
            envelope, owner = context.announce(event, subject, delay), context.handler
            # Until the handler has succeeded it is in the handler's hands, and then in the store.
            call_off = partial(self._withdraw, context, f"{owner}/{envelope.id}")
        else:
            now = datetime.now(UTC)
            envelope = event.sealed(
                id=str(uuid4()), source=self.service_name, subject=subject, cause=None, time=delay.moment(now)
            )
            owner = DELAYED
            message = self.publisher.broadcast(envelope)
            self.store.schedule(owner, Scheduled(f"event:{envelope.id}", message, delay.seconds(self.store.now)))
            if not self.store.tended(owner):
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

    # -- parts ---------------------------------------------------------------------------------------------------

    @cached_property
    def topology(self) -> Topology:
        """The exchange, queues and bindings of this service."""
        namespace = self.conf.get("choreo_namespace") or ""
        return Topology(
            self.service_name,
            namespace,
            self.subscriptions,
            self.park,
            tasks=lambda: self.tasks,
            accept=lambda: prepare_accept_content(self.conf.accept_content) or (),
            inbox=self._inbox,
            ahead=self._ahead,
            shortcut=self.shortcuts.get,
        )

    @cached_property
    def publisher(self) -> Publisher:
        """Sends events to the broker."""
        unheard = Unheard.of(self.conf.get("choreo_unheard") or Unheard.LOG)
        return Publisher(self.connection_for_write, self.topology.exchange, unheard)

    @cached_property
    def store(self) -> Store:
        """Keeps joins, retries and dead letters. Raises `DeclarationError` when it is not known where."""
        own = _store_beside(joined(self.conf.broker_write_url))
        url = self.conf.get("choreo_store_url") or own
        if not url:
            raise DeclarationError(
                "choreo keeps joins, retries and dead letters in Redis, and this broker is none. Say where it is: "
                'choreo_store_url = "redis://..." in celeryconfig.py.'
            )
        if url.startswith("memory:"):
            return MemoryStore(self.terms)
        prefix = ":".join(filter(None, ["choreo", self.topology.namespace]))
        options = self.conf.broker_transport_options or {}
        store: RedisStore
        if url == own:
            names = {"broker_prefix": "global_keyprefix", "sep": "sep"}
            beside = {name: options[option] for name, option in names.items() if option in options}
            store = StoreBesideBroker(url, self.terms, prefix, self.topology.exchange.name, **beside)
            # As in kombu, it says nothing unless it is a table.
            store.ssl = self.conf.broker_use_ssl if isinstance(self.conf.broker_use_ssl, dict) else None
        else:
            store = RedisStore(url, self.terms, prefix)
        store.transport = options
        return store

    @cached_property
    def leases(self) -> Leases:
        """Keeps the claims of running handlers."""
        # A pool child may outlive its worker: it has renewed its claim before anybody finds the worker dead.
        timeout = (self.conf.broker_transport_options or {}).get("consumer_timeout", CONSUMER_TIMEOUT)
        return Leases(self.store, min(self.terms.lease.total_seconds(), float(timeout)))

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of every service that uses this store: list, get, replay, discard."""
        return DeadLetters(self.store, self.topology.name_of)

    @cached_property
    def joins(self) -> Joins:
        """The pending joins of every service that uses this store: find, cancel, fire."""
        return Joins(self.store, self.topology.name_of)

    def backlog(self) -> dict[str, Backlog]:
        """
        What waits in the store to be sent, by handler: of every service that uses this store.

        "delayed" are the delayed events that no handler announced.
        """
        return {owner: self.store.backlog(owner) for owner in (*self.store.handlers(), DELAYED)}

    @property
    def calendars(self) -> list[str]:
        """Whose schedules this service's workers look after: their own, and that of delayed events."""
        return [*self.owners, DELAYED]

    def introduce(self) -> None:
        """Make known to the store which handlers there are, and what the joins among them wait for."""
        self.store.register(self.owners)
        joins = [subscription for subscription in self.subscriptions if isinstance(subscription, Join)]
        self.store.describe_joins({join.name: json.dumps(join.described()) for join in joins})

    @property
    def owners(self) -> list[str]:
        """Whose schedules this service's workers look after: its handlers', and those of its other queues."""
        handlers = [subscription.name for subscription in self.subscriptions]
        return [*handlers, f"{self.service_name}.dead_letters", self.service_name]

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        return self.subclass_with_self("choreo.worker.node:ServiceWorker")

    def notice(self, letter: DeadLetter) -> Message:
        """The task message that tells this service of a dead letter."""
        headers = {
            "lang": "py",
            "task": f"{self.service_name}.dead_letters",
            "id": str(uuid4()),
            # In Flower the row hangs on the run that failed, and belongs to the same story.
            "root_id": letter.envelopes[0].correlation_id if letter.envelopes else None,
            "parent_id": task_id(letter.envelopes[0].id, letter.handler) if letter.envelopes else None,
            "retries": 0,
            "argsrepr": f"{letter.handler}: {letter}",
            "kwargsrepr": "",
            "origin": self.service_name,
            "ignore_result": True,
        }
        body = json.dumps([[letter.id], {}, {}]).encode()
        return Message("", self.topology.dead_letter_queue, body, headers)

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
        self.subscriptions.append(subscription)
        if self.finalized:
            self._register_handler(subscription)

    def _register_tasks(self, **_: Any) -> None:
        for subscription in self.subscriptions:
            self._register_handler(subscription)
        name = f"{self.service_name}.dead_letters"
        listener = staticmethod(self._listener)
        self.register_task(type("DeadLetters", (DeadLetterTask,), {"name": name, "listener": listener}))

    def _register_handler(self, subscription: Subscription) -> None:
        attributes = {
            "name": subscription.name,
            "subscription": subscription,
            # An ordinary refusal is one line in the log; its traceback is in the dead letter.
            "throws": (PermanentFailure, EnvelopeError, JoinExpiredError, *subscription.retry.never),
            "__doc__": subscription.reaction.function.__doc__,
            "__module__": subscription.reaction.function.__module__,
        }
        self.register_task(type("Handler", (HandlerTask,), attributes))

    def _handler_name(self, function: Callable[..., Any], name: str | None) -> str:
        own = name if name is not None else function.__name__
        check_name("handler", own)
        if own == "dead_letters":
            raise DeclarationError(f"{describe(function)}: dead_letters is the name of the service's own queue.")
        return f"{self.service_name}.{own}"

    def _inbox(self, handler: str) -> str:
        """Where the broker finds what a plain handler has done; "" where it cannot look. Parts claim a join."""
        if self._join(handler) or not isinstance(self.store, StoreBesideBroker):
            return ""
        return self.store.inbox(handler)

    def _ahead(self, handler: str) -> Ahead | None:
        """Who begins deliveries of this handler several at a time; None where they are begun one by one."""
        join = self._join(handler)
        if join is None or not self.in_process or not isinstance(self.store, StoreBesideBroker):
            return None
        return ahead.Ahead(self, join)

    def _join(self, handler: str) -> Join | None:
        return next((known for known in self.subscriptions if isinstance(known, Join) and known.name == handler), None)

    def park(self, handler: str, message: Message, error: Exception, envelopes: tuple[Envelope, ...] = ()) -> None:
        """Keep a delivery that cannot be handled as a dead letter, and tell the service. Raises `StoreError`."""
        letter = DeadLetter(
            self.service_name, handler, Reason.UNREADABLE, str(error), message, attempts=1, envelopes=envelopes
        )
        if isinstance(error, UnansweredError):
            unit = self._unit_of(handler, error.envelope)
            letter = replace(letter, reason=Reason.POISON, envelopes=(error.envelope,), unit=unit)
        notice = Scheduled(f"notice:{letter.id}", self.notice(letter))
        self.store.bury(handler, letter.id, letter.to_json(), [notice])

    def _unit_of(self, handler: str, envelope: Envelope) -> str:
        join = self._join(handler)
        if join is not None:
            with suppress(EnvelopeError):
                return unit_of(join.key_of(envelope))
        return envelope.id

    def _defaults(self) -> dict[str, Any]:
        """Settings that a user's celeryconfig may override. What correctness needs is set on the tasks themselves."""
        defaults = {
            "accept_content": ["json"],
            "task_serializer": "json",
            "task_ignore_result": True,
            "task_default_queue": self.topology.default_queue,
            # A mistyped -Q would otherwise make a queue that no event ever reaches.
            "task_create_missing_queues": False,
            # Celery's own would reach whatever else runs on this broker; see also choreo/worker/control.py.
            "control_exchange": self.topology.name_of("choreo.control"),
            "worker_send_task_events": True,
            # A message that waits in a worker returns at once when the worker stops, and soon when it dies.
            "worker_prefetch_multiplier": 4,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "broker_channel_error_retry": True,
            "worker_consumer": "choreo.worker.consumer:ServiceConsumer",
            "choreo_shutdown_timeout": SHUTDOWN_TIMEOUT,
        }
        # Celery ranks what `add_defaults` adds above the user's configuration. Its own defaults are the last of maps.
        given = set[str]().union(*self.conf.maps[:-1])
        return {key: value for key, value in defaults.items() if key not in given}


def _store_beside(broker_url: str) -> str:
    scheme, _, rest = broker_url.partition("://")
    if scheme == "redis+socket":
        path, _, query = rest.partition("?")
        return f"unix://{path}?db={parse_qs(query).get('virtual_host', ['0'])[0].strip('/')}"
    if scheme.startswith("valkey"):
        return f"{scheme.replace('valkey', 'redis')}://{rest}"
    return broker_url if scheme in _REDIS_SCHEMES else ""
