"""
The runtime: one service put together. The only file that knows every room.

A room is imported when its part is made. So a program that only declares or publishes does not import the worker, and a
command that asks the store does not import the publisher.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime
from importlib.util import find_spec
from socket import gethostname
from typing import TYPE_CHECKING, Any

from kombu.serialization import prepare_accept_content

from choreo.cached import cached_property
from choreo.declare.context import Context, context_of, utc_now
from choreo.declare.settings import (
    MAX_HOPS,
    SETTINGS,
    SHUTDOWN_TIMEOUT,
    USUAL_PREFETCH,
    Unheard,
    check_settings,
    rank_lowest,
)
from choreo.errors import DeclarationError, EnvelopeError, JoinExpiredError, PermanentFailure

if TYPE_CHECKING:
    from kombu import Connection, Exchange

    from choreo.broker.publisher import Publisher
    from choreo.broker.queue import GuardedQueue
    from choreo.broker.topology import Topology
    from choreo.declare.description import ServiceDescription
    from choreo.declare.subscription import Subscription
    from choreo.delivery.lease_keeper import LeaseKeeper
    from choreo.delivery.listener import Listener
    from choreo.delivery.undeclared import UndeclaredHandlers
    from choreo.events.message import Message
    from choreo.events.signing import Signing
    from choreo.fast.lane import Lane
    from choreo.observe.broker_look import BrokerLook
    from choreo.observe.observer import Observer
    from choreo.observe.readings import Readings
    from choreo.observe.top import Top
    from choreo.operate.dead_letters import DeadLetters
    from choreo.operate.events import Events
    from choreo.operate.joins import Joins
    from choreo.operate.pauses import HandlerPauses
    from choreo.operate.repairs import Repairs
    from choreo.operate.rerun import Reruns
    from choreo.operate.retirement import Retirements
    from choreo.operate.schedule import Schedules
    from choreo.operate.stories import Stories
    from choreo.operate.topology import Topologies
    from choreo.reports import Reports
    from choreo.store.port import Store
    from choreo.store.presence import Program
    from choreo.store.schedule import Backlog
    from choreo.store.sightings import Sightings
    from choreo.store.terms import Terms
    from choreo.worker.dead_letters import DeadLetterTask
    from choreo.worker.handler import HandlerTask

logger = logging.getLogger(__name__)


#: The parts of a runtime that may hold connections.
_CONNECTED = (
    "publisher",
    "store",
    "lane",
    "leases",
    "dead_letters",
    "joins",
    "pauses",
    "repairs",
    "events",
    "reruns",
    "retirements",
    "schedule",
    "topologies",
    "undeclared",
)


def _stand_by_nobody(handler: str) -> None:
    """Do nothing: this program is no worker."""


def _wake_nobody(services: Sequence[str]) -> None:
    """Do nothing: a runtime without an app cannot reach workers."""


class Runtime:
    """
    The parts of one service. Each is made when it is first read, and then lives as long as the service.

    A runtime is the `choreo.delivery.ports.Ports` of a worker. ``subscriptions`` is the service's own list. ``conf``
    returns Celery's configuration, ``connect`` opens a connection to publish on, ``tasks`` returns Celery's tasks by
    name. Reading a part raises `DeclarationError` if a setting that it needs is wrong.
    """

    #: Callback: returns the time at which an event is announced.
    now: Callable[[], datetime] = staticmethod(utc_now)

    def __init__(
        self,
        service_name: str,
        terms: Terms,
        subscriptions: Sequence[Subscription],
        conf: Callable[[], Any],
        connect: Callable[[], Connection],
        tasks: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.service_name = service_name
        self.terms = terms
        self.subscriptions = subscriptions
        self._settings, self._connect, self._tasks = conf, connect, tasks

    #: Callback: returns the description of the service.
    describe: Callable[[], ServiceDescription]
    #: Callback: has the workers of these services look at the pauses at once. Raises nothing.
    wake_workers: Callable[[Sequence[str]], object] = staticmethod(_wake_nobody)
    #: Callback: see `choreo.delivery.ports.Ports`. A worker sets it.
    stand_by: Callable[[str], object] = staticmethod(_stand_by_nobody)
    #: The name of the module that makes the service.
    module = ""
    #: True if the service was to read the module `celeryconfig`, and there is none on the path.
    is_unconfigured = False

    @property
    def _conf(self) -> Any:
        return self._settings()

    def configured(self) -> None:
        """
        Called when Celery has read the configuration: check it, and add choreo's defaults.

        Raises `DeclarationError` for a setting of choreo that does not exist, or whose value cannot work.
        """
        check_settings(self._conf)
        self._check_recording()
        self._read_signing()
        if not {"publisher", "store"} & self.__dict__.keys():
            # The configuration may have been read before, with another namespace.
            self.__dict__.pop("topology", None)
        rank_lowest(self._conf, defaults(self))

    def _read_signing(self) -> None:
        """Read the keys again. Raises `DeclarationError` for a wrong one, before anything is announced."""
        self.__dict__.pop("signing", None)
        signing = self.signing
        if "publisher" in self.__dict__:
            self.publisher.signing = signing

    def _check_recording(self) -> None:
        if any(self._conf.get(name) is not None for name in SETTINGS if name.startswith("choreo_record_")):
            from choreo.store.runs import Recording

            Recording.of(self._conf)

    def check(self) -> None:
        """
        Raise `DeclarationError` if a program has changed the settings since, so that they cannot work.

        Keys that it has set since are read: without them, whatever comes would run.
        """
        self._conf.get("choreo_namespace")  # now it has been read
        check_settings(self._conf)
        self._read_signing()
        namespace = self._conf.get("choreo_namespace") or ""
        if namespace != self.topology.namespace:
            raise DeclarationError(
                f"{self.service_name}: choreo_namespace was set to {namespace!r} after the configuration had been read "
                f"with {self.topology.namespace!r}. Set it in celeryconfig.py, or as Service(choreo_namespace=...)."
            )

    def reconnect(self) -> None:
        """Forget the parts that may be connected: the settings name another broker or store now."""
        if "publisher" in vars(self):
            self.publisher.close()
        for name in _CONNECTED:
            vars(self).pop(name, None)

    def broker_url(self, url: Any) -> Any:
        """Return the URL that a setting names. Raises `DeclarationError` if there is none."""
        if url or self._conf.broker_transport:
            return url
        found = "There is no module celeryconfig on the path. " if self.is_unconfigured else ""
        stage = " To run handlers without a broker (task_always_eager does not), use choreo.testing.stage(app)."
        raise DeclarationError(
            f"{self.service_name} has no broker: broker_url is not set. {found}Write broker_url = "
            f'"redis://host:6379/0" in celeryconfig.py, or Service({self.service_name!r}, broker="redis://...").'
            f"{stage if self._conf.task_always_eager else ''}"
        )

    def place(self) -> str:
        """The broker, without its password, and the namespace: for messages."""
        namespace = self.topology.namespace
        return f"{self._connect().as_uri()} ({f'namespace {namespace!r}' if namespace else 'no namespace'})"

    @cached_property
    def topology(self) -> Topology:
        """The exchange, queues and bindings of this service."""
        from choreo.broker.topology import Topology

        return Topology(
            self.service_name,
            self._conf.get("choreo_namespace") or "",
            self.subscriptions,
            self._park,
            tasks=self._callable_tasks,
            accept=lambda: prepare_accept_content(self._conf.accept_content) or (),
            handlers=lambda: self.store.handlers(),
            returned=lambda *call: self.store.returned(*call),
            on_consume=self._on_consume,
            forward=(lambda envelope: self.publisher.forward(envelope)) if self._conf.get("choreo_intake") else None,
        )

    @cached_property
    def lane(self) -> Lane | None:
        """The fast lane; None with ``choreo_fast_lane = False``."""
        if not self._has_lane():
            return None
        from choreo.fast.lane import Lane

        return Lane(lambda: self.store, self._tasks)

    @cached_property
    def publisher(self) -> Publisher:
        """Sends events to the broker. Raises `DeclarationError` if no setting names one."""
        from choreo.broker.publisher import Publisher

        self.check()
        self.broker_url(self._conf.broker_write_url)
        if self._conf.task_always_eager:
            logger.warning(
                "task_always_eager runs ordinary tasks at once, and no handlers: %s sends its events to %s. To run "
                "handlers without a broker, in a test, use choreo.testing.stage(app).",
                self.service_name,
                self.place(),
            )
        unheard = Unheard.of(self._conf.get("choreo_unheard") or Unheard.LOG)
        parts = self._connect, self.topology.exchange, unheard, self.place, self._plain_exchange()
        publisher = self._traced(*parts) if self.is_traced else Publisher(*parts)
        publisher.report_unheard = self._report_unheard
        publisher.signing = self.signing
        publisher.note_types = self.sightings.note if self.sightings is not None else None
        return publisher

    def _plain_exchange(self) -> Exchange | None:
        """The exchange ``choreo_cloudevents_exchange``. Raises `DeclarationError` if the broker is not RabbitMQ."""
        from kombu import Exchange

        name = self._conf.get("choreo_cloudevents_exchange")
        if not name:
            return None
        if self._system != "rabbitmq":
            raise DeclarationError(
                f"choreo_cloudevents_exchange = {name!r} needs RabbitMQ, and the broker is {self.place()}. On Redis "
                f"programs read the events from a list of their own: see docs/other-languages.md."
            )
        return Exchange(name, type="topic", durable=True)

    def _traced(self, *parts: Any) -> Publisher:
        from choreo.tracing.publisher import TracedPublisher

        publisher = TracedPublisher(*parts)
        publisher.system = self._system
        return publisher

    def _report_unheard(self, event_type: str) -> None:
        if self._unheard_reports is not None:
            self._unheard_reports.note(event_type)

    @cached_property
    def _unheard_reports(self) -> Reports | None:
        """Tells the store of events that nobody hears. None if no setting says where the store is."""
        from choreo.reports import Reports

        try:
            # Here, and not in a thread: a child that is forked meanwhile would wait for its imports for ever.
            store = self.store
        except DeclarationError:
            return None
        return Reports(lambda counts: store.note_unheard(self.service_name, counts), "events that nobody hears")

    @cached_property
    def contexts(self) -> Callable[..., Context]:
        """Makes the context of a handler. With OpenTelemetry, one that records spans."""
        if not self.is_traced:
            return context_of
        from choreo.tracing.context import contexts_on

        return contexts_on(self._system)

    @cached_property
    def signing(self) -> Signing | None:
        """What this service signs with, and whom it trusts. None without ``choreo_signing_keys``: nothing is signed."""
        if not any(map(self._conf.get, ("choreo_signing_keys", "choreo_signing", "choreo_publishers"))):
            return None
        from choreo.events.signing import Signing

        return Signing.of(self._conf)

    @property
    def is_traced(self) -> bool:
        """
        True if spans are recorded: the program has set a tracer provider of OpenTelemetry, or ``choreo_tracing``.

        It is asked once per process for what is announced, and once for what is handled: before the first event.
        Raises `DeclarationError` if ``choreo_tracing`` is True, and OpenTelemetry is missing.
        """
        wanted = self._conf.get("choreo_tracing")
        if wanted and not (find_spec("opentelemetry") and find_spec("opentelemetry.trace")):
            raise DeclarationError(
                "choreo_tracing = True needs OpenTelemetry's API. Install it: pip install 'celery-choreo[otel]'."
            )
        return _has_provider() if wanted is None else wanted

    @property
    def _system(self) -> str:
        """The messaging system, as OpenTelemetry names it."""
        kind = str(self._connect().transport.driver_type)
        return {"amqp": "rabbitmq"}.get(kind, kind)

    @cached_property
    def sightings(self) -> Sightings | None:
        """
        Tells the register of the events that this process announces outside of handlers.

        None if no setting says where the store is: a program that only publishes needs none.
        """
        from choreo.store.sightings import Sightings

        try:
            # Here, and not in the thread: a child that is forked meanwhile would wait for its imports for ever.
            self.store  # noqa: B018
        except DeclarationError as error:
            logger.debug(
                "choreo map does not learn what %s announces outside of handlers: %s", self.service_name, error
            )
            return None
        return Sightings(self._tell_announced)

    def _tell_announced(self, types: Sequence[str]) -> None:
        description = self.describe()
        program = self.program(node=f"publisher@{gethostname()}", digest=description.digest)
        self.store.report(self.service_name, program, description.to_json(), 0, types)

    def program(self, node: str, **more: Any) -> Program:
        """What the register tells of this process. It has this ``node``; ``more`` are other fields of `Program`."""
        from choreo.store.presence import Program

        file = self.file
        name = f"{node}/{os.getpid()} {file}".rstrip()
        about = {"host": gethostname(), "pid": os.getpid(), "version": self.version}
        about["choreo"] = sys.modules["choreo"].__version__
        own = {"name": name, "node": node, "file": file, "module": self._target(), "since": time.time()}
        return Program(**{**own, **about, **more})

    @cached_property
    def version(self) -> str:
        """The version of the service's code: the setting ``choreo_version``, or that of its distribution, or ""."""
        from choreo.declare.code_version import version_of

        return self._conf.get("choreo_version") or next(filter(None, map(version_of, self._modules())), "")

    @property
    def file(self) -> str:
        """The file that declares the service; "" if there is none."""
        files = (getattr(sys.modules.get(module), "__file__", None) for module in self._modules())
        return str(next(filter(None, files), ""))

    def _target(self) -> str:
        """The module that holds the service, as ``celery -A`` takes it: the one that makes it, or declares handlers."""
        modules = [self.module, *self._modules()]
        return next((name for name in modules if self._is_held_by(name)), self.module)

    def _is_held_by(self, module: str) -> bool:
        # Not isinstance() and getattr(): a lazy proxy such as celery.current_app would make what it stands for.
        for value in vars(sys.modules[module]).values() if module in sys.modules else ():
            with suppress(AttributeError, KeyError):
                if object.__getattribute__(value, "__dict__")["runtime"] is self:
                    return True
        return False

    def _modules(self) -> list[str]:
        """The modules that declare its handlers, and the one that makes it."""
        from choreo.declare.reaction import code_of

        declaring = [code_of(subscription.reaction.function).__module__ for subscription in self.subscriptions]
        return list(dict.fromkeys([*declaring, self.module]))

    @cached_property
    def max_hops(self) -> float:
        """The most events that may lead to an event, one after the other: ``choreo_max_hops``. 0 is infinity."""
        hops: int | None = self._conf.get("choreo_max_hops")
        return (MAX_HOPS if hops is None else hops) or math.inf

    @cached_property
    def store(self) -> Store:
        """
        Keeps joins, retries and dead letters.

        The fused store if it is on the broker's own Redis server and the fast lane is on; a store in memory for
        ``memory:``; else a store in Redis. Raises `DeclarationError` if no setting says where it is.
        """
        from choreo.broker.connections import is_same_place, joined, redis_url
        from choreo.store.runs import Recording

        conf = self._conf
        own = redis_url(joined(conf.broker_write_url))
        url = conf.get("choreo_store_url") or own
        if not url:
            self.broker_url(conf.broker_write_url)
            raise DeclarationError(
                "choreo keeps joins, retries and dead letters in Redis, and this broker is no Redis. Say where it is: "
                'choreo_store_url = "redis://..." in celeryconfig.py.'
            )
        recording = Recording.of(conf)
        if url.startswith("memory:"):
            from choreo.store.memory import MemoryStore

            return MemoryStore(self.terms, recording=recording)
        from choreo.store.redis import RedisStore

        prefix = _prefix(self.topology.namespace)
        options = conf.broker_transport_options or {}
        # The setting is the broker's: it also applies to another database there, and to no other server.
        ssl = conf.broker_use_ssl if is_same_place(url, own) else None
        if url != own or not self._has_lane():
            return RedisStore(url, self.terms, prefix, ssl=ssl, transport=options, recording=recording)
        from choreo.fast.fused_store import FusedStore

        names = {"broker_prefix": "global_keyprefix", "sep": "sep"}
        broker = {name: options[option] for name, option in names.items() if option in options}
        exchange = self.topology.exchange.name
        return FusedStore(url, self.terms, prefix, exchange, ssl=ssl, transport=options, recording=recording, **broker)

    def store_in(self, namespace: str) -> Store:
        """The store of another namespace on the same server, for reading."""
        from choreo.broker.connections import is_same_place, joined, redis_url
        from choreo.store.redis import RedisStore

        own = redis_url(joined(self._conf.broker_write_url))
        url = self._conf.get("choreo_store_url") or own
        ssl = self._conf.broker_use_ssl if is_same_place(url, own) else None
        transport = self._conf.broker_transport_options or {}
        return RedisStore(url, self.terms, _prefix(namespace), ssl=ssl, transport=transport)

    @cached_property
    def leases(self) -> LeaseKeeper:
        """Keeps the claims of running handlers."""
        from choreo.broker.redis.ownership import CONSUMER_TIMEOUT
        from choreo.delivery.lease_keeper import LeaseKeeper

        # A pool child may outlive its worker's main process. It must renew its claim before that counts as dead.
        timeout = (self._conf.broker_transport_options or {}).get("consumer_timeout", CONSUMER_TIMEOUT)
        return LeaseKeeper(self.store, min(self.terms.lease.total_seconds(), float(timeout)))

    @cached_property
    def undeclared(self) -> UndeclaredHandlers:
        """The handlers that no worker declares any more, of every service that uses this store."""
        from choreo.delivery.undeclared import UndeclaredHandlers

        return UndeclaredHandlers(self.store, self.queue_of, lambda queues: self.waiting_in(queues))

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of every service that uses this store."""
        from choreo.operate.dead_letters import DeadLetters

        return DeadLetters(self.store, self.queue_of, lambda: bool(self._conf.get("choreo_allow_edit")), self.now)

    @cached_property
    def joins(self) -> Joins:
        """The pending joins of every service that uses this store."""
        from choreo.operate.joins import Joins

        return Joins(self.store, self.queue_of)

    @cached_property
    def pauses(self) -> HandlerPauses:
        """The pauses of every handler that uses this store."""
        from choreo.operate.pauses import HandlerPauses

        wake = self.wake_workers
        return HandlerPauses(self.store, self.undeclared, self, self.repairs, lambda services: wake(services))

    @cached_property
    def repairs(self) -> Repairs:
        """The log of repairs of this platform."""
        from choreo.operate.repairs import Repairs

        return Repairs(self.store)

    @cached_property
    def reruns(self) -> Reruns:
        """Lets handlers of every service that uses this store handle an event again."""
        from choreo.operate.rerun import Reruns

        return Reruns(self.store, self.queue_of, self.events, self.repairs)

    @cached_property
    def topologies(self) -> Topologies:
        """Compares queues and bindings with what code declares, and makes them."""
        from choreo.broker.bindings import Bindings
        from choreo.broker.depths import Depths
        from choreo.operate.topology import Topologies

        bindings = Bindings(self._connect, self.topology.exchange)
        return Topologies(self.store, bindings, Depths(self._connect), self.queue_of, self.repairs)

    @cached_property
    def retirements(self) -> Retirements:
        """Retires handlers of every service that uses this store."""
        from choreo.broker.bindings import Bindings
        from choreo.broker.depths import Depths
        from choreo.operate.retirement import Retirements

        bindings = Bindings(self._connect, self.topology.exchange)
        return Retirements(self.store, bindings, Depths(self._connect), self.acting_for, self._connect, self.repairs)

    def acting_for(self, service: str) -> Runtime:
        """This runtime in the name of another service, whose dead letters it records."""
        acting = copy(self)
        acting.service_name = service
        return acting

    @cached_property
    def events(self) -> Events:
        """Finds events of every service that uses this store."""
        from choreo.operate.events import Events

        return Events(self.store, self.queue_of, self.look_at_broker)

    @cached_property
    def schedule(self) -> Schedules:
        """The schedules of every service that uses this store."""
        from choreo.operate.schedule import Schedules

        return Schedules(self.store, self, self.repairs)

    @cached_property
    def observe(self) -> Observer:
        """Looks at every service that uses this store."""
        from choreo.observe.observer import Observer

        return Observer(
            self.store,
            self.queue_of,
            lambda queues: self.waiting_in(queues),
            self.undeclared,
            self.new_top,
            look=self.look_at_broker,
            store_in=self.store_in,
            namespace=self.topology.namespace,
        )

    def look_at_broker(self, queues: Sequence[str], texts: Sequence[str]) -> BrokerLook:
        """Look for messages with one of these texts in these queues, and in the hands of workers."""
        from choreo.observe.broker_look import look_at_broker

        return look_at_broker(self._connect, queues, texts)

    def new_top(self) -> Top:
        """Looks at the state of the whole platform, with a connection of its own to the broker."""
        from choreo.broker.connections import is_same_place, joined, redis_url
        from choreo.broker.depths import Depths
        from choreo.observe.top import Top

        own = redis_url(joined(self._conf.broker_write_url)) or ""
        is_apart = bool(own) and not is_same_place(self._conf.get("choreo_store_url") or own, own)
        return Top(
            self.store,
            Depths(self._connect),
            self.queue_of,
            self.undeclared,
            namespace=self.topology.namespace,
            own_redis=own if is_apart else "",
        )

    @cached_property
    def stories(self) -> Stories:
        """The pending stories of every service that uses this store."""
        from choreo.operate.stories import Stories

        return Stories(self.store, self.joins)

    def queue_of(self, name: str) -> str:
        """The name on the broker of the queue of this handler, or of any other of the service's queues."""
        return self.topology.name_of(name)

    def waiting_in(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Queue → the number of messages in it. A queue that does not exist is left out."""
        from choreo.broker.bindings import Bindings

        return Bindings(self._connect, self.topology.exchange).message_counts(queues)

    def new_readings(self) -> Readings:
        """Reads the numbers of the whole platform, with a connection of its own to the broker."""
        from choreo.broker.depths import Depths
        from choreo.observe.readings import Readings

        return Readings(self.store, Depths(self._connect), self.queue_of)

    def soft_time_limit(self, handler: str) -> float | None:
        """The soft time limit of this handler in this worker, in seconds; None if there is none."""
        return getattr(self._tasks().get(handler), "soft_time_limit", None) or self.pool_soft_time_limit

    #: The node name of this worker: see `choreo.worker.node`.
    node = ""
    #: The soft time limit of the worker's pool, in seconds: see `choreo.worker.node`.
    pool_soft_time_limit: float | None = None

    def backlog(self) -> dict[str, Backlog]:
        """What waits in each schedule of every service that uses the store, by its name. Raises `StoreError`."""
        from choreo.store.schedule import DELAYED

        return {name: self.store.backlog(name) for name in (*self.store.handlers(), DELAYED)}

    def registered_names(self) -> list[str]:
        """The names under which this service has schedules and dead letters: its handlers and its other queues."""
        from choreo.delivery.notice import notices_of

        handlers = [subscription.name for subscription in self.subscriptions]
        return [*handlers, notices_of(self.service_name), self.service_name]

    def schedules(self) -> list[str]:
        """The names of the schedules that this service's clock looks into: its own, and the delayed events."""
        from choreo.store.schedule import DELAYED

        return [*self.registered_names(), DELAYED]

    def introduce(self) -> None:
        """Register this service's handlers in the store, and describe its joins and stories. Raises `StoreError`."""
        from choreo.declare.join import Join

        self.store.register(self.registered_names())
        joins = [subscription for subscription in self.subscriptions if isinstance(subscription, Join)]
        terms = {"retention": self.terms.retention.total_seconds()}
        descriptions = {join.name: join.described() | terms for join in joins}
        others = {subscription.name for subscription in self.subscriptions} - descriptions.keys()
        for name, text in self.store.joins().items():
            if name in others:
                descriptions[name] = json.loads(text) | {"former": True}
        self.store.describe_joins({name: json.dumps(described) for name, described in descriptions.items()})

    def handler_task(self, subscription: Subscription, *bases: type) -> type[HandlerTask]:
        """Make the task class of a handler. ``bases`` are the user's own, below choreo's: they keep no promise."""
        from choreo.declare.reaction import code_of
        from choreo.worker.handler import HandlerTask

        code = code_of(subscription.reaction.function)
        attributes = {
            "name": subscription.name,
            "subscription": subscription,
            "runtime": self,
            # An ordinary refusal is one line in the log; its traceback is in the dead letter.
            "throws": (PermanentFailure, EnvelopeError, JoinExpiredError, *subscription.retry.never),
            "__doc__": code.__doc__,
            "__module__": code.__module__,
            **dict(subscription.options),
        }
        if subscription.sequential is not None:
            attributes["Strategy"] = "choreo.worker.series:strategy"
        base = self.lane.task_class if self.lane else HandlerTask
        own: tuple[type, ...] = (base,)
        if subscription.batch is not None:
            from choreo.worker.batch_task import BatchTask

            own = (BatchTask, base)
        return type("Handler", (*own, *bases), attributes)

    def dead_letter_task(self, listener: Listener, *bases: type) -> type[DeadLetterTask]:
        """Make the task class that receives the service's notices. ``listener`` gets each dead letter."""
        from choreo.delivery.notice import notices_of
        from choreo.worker.dead_letters import DeadLetterTask

        attributes = {"name": notices_of(self.service_name), "listener": staticmethod(listener)}
        return type("DeadLetters", (DeadLetterTask, *bases), attributes)

    def _has_lane(self) -> bool:
        return self._is_on("choreo_fast_lane", default=True)

    @property
    def has_bundles(self) -> bool:
        """True if a child of the prefork pool may get several messages at once. Raises `DeclarationError`."""
        return self._is_on("choreo_bundles", default=True)

    def _is_on(self, name: str, *, default: bool) -> bool:
        is_on = self._conf.get(name, default)
        if not isinstance(is_on, bool):
            raise DeclarationError(f"{name} = {is_on!r}: it takes True or False.")
        return is_on

    def _callable_tasks(self) -> Container[str]:
        """The names of the tasks that can be called by a message."""
        # Without results Celery's chord_unlock would ask for one each second, for ever.
        without = () if self._conf.result_backend not in (None, "disabled") else ("celery.chord_unlock",)
        return self._tasks().keys() - set(without)

    def _on_consume(self, queue: GuardedQueue) -> Mapping[str, Any] | None:
        # The lane is asked for late. It reads the configuration, whose defaults need the topology.
        return self.lane.on_consume(queue) if self.lane else None

    def _park(self, handler: str, message: Message, error: Exception) -> None:
        from choreo.declare.join import Join
        from choreo.delivery.notice import park

        join = next((known for known in self.subscriptions if isinstance(known, Join) and known.name == handler), None)
        park(self, handler, message, error, join=join)


def _has_provider() -> bool:
    """True if this program has set a tracer provider of OpenTelemetry. Until it has, its spans are recorded nowhere."""
    trace = sys.modules.get("opentelemetry.trace")
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _prefix(namespace: str) -> str:
    return ":".join(filter(None, ["choreo", namespace]))


def defaults(runtime: Runtime) -> dict[str, Any]:
    """
    Celery's settings for which choreo has another default. They rank below the user's: see `rank_lowest`.

    Settings that the promises need are not here: they are attributes of the tasks, see
    `choreo.worker.task.SafeTask`.
    """
    topology = runtime.topology
    return {
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_default_queue": topology.default_queue,
        # Otherwise a mistyped -Q would make a queue that no event ever reaches.
        "task_create_missing_queues": False,
        # Celery's own default is shared with every other Celery program on this broker. See choreo/worker/control.py.
        "control_exchange": topology.name_of("choreo.control"),
        "worker_send_task_events": True,
        # Waiting in a worker is harmless: a message is given back at once if the worker stops, and soon if it dies.
        "worker_prefetch_multiplier": USUAL_PREFETCH,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "worker_consumer": "choreo.worker.consumer:ServiceConsumer",
        "choreo_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


#: The steps that a service's worker runs in addition to Celery's own. Celery imports them.
WORKER_STEPS = (
    "choreo.worker.steps:ClockStep",
    "choreo.worker.steps:FairShareStep",
    "choreo.worker.steps:CoroutinesStep",
    "choreo.worker.steps:PausesStep",
    "choreo.worker.steps:BindingsStep",
    "choreo.worker.steps:PresenceStep",
    "choreo.worker.grace:GraceStep",
)
#: The class of a service's worker.
WORKER_CLASS = "choreo.worker.node:ServiceWorker"
