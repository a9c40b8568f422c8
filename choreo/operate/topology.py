"""The topology: compares the queues and bindings that code declares with those that are there, and makes them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from kombu import Queue

from choreo.broker.depths import Depth
from choreo.delivery.undeclared import is_handler, service_of
from choreo.errors import TopologyError
from choreo.events.patterns import Binding
from choreo.operate.repairs import Repairs
from choreo.store.deployments import Applied, Retirement
from choreo.store.port import Store
from choreo.store.presence import Presence
from choreo.store.register import Listening

#: Seconds for which the bindings count as declared that `Topologies.apply` has made.
APPLIED_FOR = 86_400.0


@dataclass(frozen=True)
class Wanted:
    """The queues and bindings that the code of one service declares."""

    service: str
    #: Handler → the patterns that it listens to.
    handlers: Mapping[str, Sequence[str]]
    #: All queues of the service, as its workers make them.
    queues: Sequence[Queue] = field(default_factory=tuple)


@dataclass(frozen=True)
class Remains:
    """What is left of a handler."""

    #: The number of messages that wait in its queue, of dead letters, and of entries in its schedule.
    waiting: int = 0
    dead_letters: int = 0
    scheduled: int = 0
    #: When the last worker that declared it gave its last sign of life, in seconds since 1970. None: unknown.
    last_worker: float | None = None


@dataclass(frozen=True)
class Found:
    """What there is of one service."""

    #: Queue → the number of messages that wait in it. On RabbitMQ only the queues that exist.
    depths: Mapping[str, int]
    #: The bindings that do not exist, of those that are wanted. None: the broker does not tell.
    missing: Sequence[Binding] | None = None
    listening: Listening | None = None
    applied: Applied | None = None
    #: Live worker → the bindings that it declares.
    workers: Mapping[str, Sequence[Binding]] = field(default_factory=dict)
    #: Handler → what is left of it, of the handlers that the code does not declare.
    remains: Mapping[str, Remains] = field(default_factory=dict)
    retirements: Sequence[Retirement] = ()


@dataclass(frozen=True)
class Orphan:
    """A handler that the code does not declare, and its queue."""

    handler: str
    queue: str
    waiting: int = 0
    dead_letters: int = 0
    scheduled: int = 0
    #: The live workers that still declare it.
    workers: Sequence[str] = ()
    last_worker: float | None = None
    #: True while `choreo topology retire` is at work on it.
    is_retiring: bool = False


@dataclass(frozen=True)
class Unbinding:
    """A binding that the code does not declare. Workers remove it when the last one that declares it has stopped."""

    queue: str
    pattern: str
    #: The live workers that still declare it.
    workers: Sequence[str] = ()


@dataclass(frozen=True)
class ServicePlan:
    """What is to be done for one service."""

    service: str
    #: The queues to make.
    create: Sequence[str] = ()
    #: The bindings to make: queue and pattern.
    bind: Sequence[Binding] = ()
    unbind: Sequence[Unbinding] = ()
    orphans: Sequence[Orphan] = ()
    #: Queue → the number of messages that wait in it, for all its queues that exist.
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def changes(self) -> int:
        """The number of things that `Topologies.apply` would make."""
        return len(self.create) + len(self.bind)


@dataclass(frozen=True)
class Plan:
    """What is to be done for some services."""

    services: Sequence[ServicePlan]
    #: The services that the store knows, and whose code was not looked at.
    others: Sequence[str] = ()

    @property
    def changes(self) -> int:
        """The number of things that `Topologies.apply` would make."""
        return sum(one.changes for one in self.services)

    @property
    def orphans(self) -> list[Orphan]:
        """The orphans of all these services."""
        return [orphan for one in self.services for orphan in one.orphans]

    def to_json(self) -> str:
        """As one JSON object."""
        return json.dumps({"changes": self.changes, **asdict(self)})


def planned(wanted: Wanted, found: Found, queue_of: "QueueOf") -> ServicePlan:
    """The plan of one service. ``queue_of`` returns the name of a handler's queue."""
    bindings = [(queue_of(name), pattern) for name, its in wanted.handlers.items() for pattern in its]
    known = found.listening.bindings if found.listening else frozenset[Binding]()
    doubtful = set(found.missing or ()) | _unfinished(found)
    bind = [one for one in bindings if one not in known or one in doubtful]
    names = [queue.name for queue in wanted.queues]
    create = [name for name in names if name not in found.depths]
    if found.missing is not None:
        # On Redis an empty queue is no key: a queue is there when a binding leads to it.
        bound = {queue for queue, _ in set(bindings) - set(bind)}
        create = [queue_of(name) for name in wanted.handlers if queue_of(name) not in bound]
    # A binding of a queue that must be made is missing as well, whatever the store remembers.
    bind = [one for one in bindings if one in bind or one[0] in create]
    return ServicePlan(
        wanted.service,
        create,
        bind,
        [Unbinding(*one, _owners(found, one)) for one in sorted(known - set(bindings))],
        [_orphan(handler, queue_of(handler), remains, found) for handler, remains in sorted(found.remains.items())],
        {name: count for name, count in found.depths.items() if name in names},
    )


def _unfinished(found: Found) -> set[Binding]:
    """The bindings of which an interrupted `Topologies.apply` did not learn that the broker has them."""
    if found.applied is None or found.applied.is_made:
        return set()
    return set(found.applied.bindings) - {one for its in found.workers.values() for one in its}


def _owners(found: Found, binding: Binding) -> list[str]:
    return [worker for worker, its in found.workers.items() if binding in its]


def _orphan(handler: str, queue: str, remains: Remains, found: Found) -> Orphan:
    owners = [worker for worker, its in found.workers.items() if any(bound == queue for bound, _ in its)]
    is_retiring = any(mark.queue == queue and not mark.is_over for mark in found.retirements)
    return Orphan(
        handler,
        queue,
        remains.waiting,
        remains.dead_letters,
        remains.scheduled,
        owners,
        None if owners else remains.last_worker,
        is_retiring,
    )


class QueueOf(Protocol):
    """Callback: returns the name of the queue of a handler."""

    def __call__(self, name: str, /) -> str: ...


class Broker(Protocol):
    """`choreo.broker.bindings.Bindings`, as this file needs it. Each method raises the broker's errors."""

    def declare(self, queues: Iterable[Queue]) -> None:
        """Make these queues with their bindings."""

    def missing(self, bindings: Sequence[Binding]) -> Sequence[Binding] | None:
        """Those of these bindings that do not exist. None: the broker does not tell."""


class Queues(Protocol):
    """`choreo.broker.depths.Depths`, as this file needs it."""

    def look(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Queue → what waits in it. Raises the broker's errors."""

    def close(self) -> None:
        """Close the connection."""


class Topologies:
    """
    The queues and bindings of services, and what their code declares.

    Its methods raise `StoreError`, and `TopologyError` if the broker does not answer.
    """

    def __init__(self, store: Store, broker: Broker, depths: Queues, queue_of: QueueOf, repairs: Repairs) -> None:
        self._store, self._broker, self._depths = store, broker, depths
        self._queue_of, self._repairs = queue_of, repairs

    def plan(self, *wanted: Wanted) -> Plan:
        """Compare what the code of these services declares with what there is. Changes nothing."""
        with closing(self._depths):
            plans = [planned(one, self._found(one), self._queue_of) for one in wanted]
        looked_at = {one.service for one in wanted}
        others = {service_of(name) for name in self._store.handlers() if is_handler(name)} - looked_at
        return Plan(plans, sorted(others))

    def apply(self, *wanted: Wanted, seconds: float = APPLIED_FOR, reason: str = "", who: str = "") -> Plan:
        """
        Make the queues and bindings that the code of these services declares. Returns the plan that was carried out.

        Running workers go on, whatever version they have. They leave the bindings alone for ``seconds``, in which the
        workers that declare them are to start. Nothing is unbound or deleted. Calling again is safe at any time: what
        is there stays as it is. ``who`` is by default the user and host of this process.
        """
        plan = self.plan(*wanted)
        for one in wanted:
            self._check_retiring(one)
        for one, its in zip(wanted, plan.services, strict=True):
            self._apply(one, seconds)
            if its.changes:
                self._repairs.note("applied", one.service, its.changes, reason, who)
        return plan

    def _apply(self, wanted: Wanted, seconds: float) -> None:
        bindings = [(self._queue_of(name), pattern) for name, its in wanted.handlers.items() for pattern in its]
        self._store.register(list(wanted.handlers))
        # First in the store: the workers of another version would remove what nobody declares.
        self._store.apply(wanted.service, bindings, seconds)
        self._asked(lambda: self._broker.declare(wanted.queues))
        self._store.apply(wanted.service, bindings, seconds, is_made=True)

    def _check_retiring(self, wanted: Wanted) -> None:
        names = {self._queue_of(name): name for name in wanted.handlers}
        for mark in self._store.retirements(wanted.service):
            if mark.queue in names and not mark.is_over:
                name = names[mark.queue]
                raise TopologyError(
                    f"{name} is being retired ({mark.record}), and this code declares it. To keep it: `choreo topology "
                    f"retire {name} --cancel`."
                )

    def _found(self, wanted: Wanted) -> Found:
        store, service = self._store, wanted.service
        bindings = [(self._queue_of(name), pattern) for name, its in wanted.handlers.items() for pattern in its]
        gone = [name for name in store.handlers() if _is_gone(name, wanted)]
        queues = [queue.name for queue in wanted.queues]
        depths = self._asked(lambda: self._depths.look([*queues, *map(self._queue_of, gone)]))
        missing = self._asked(lambda: self._broker.missing(bindings))
        presence = store.presence(service)
        return Found(
            {queue: depth.count + (depth.held or 0) for queue, depth in depths.items()},
            missing,
            store.listening(service),
            store.applied(service),
            store.declared(service),
            {name: self._remains(name, depths.get(self._queue_of(name)), presence) for name in gone},
            store.retirements(service),
        )

    def _remains(self, handler: str, depth: Depth | None, presence: Presence) -> Remains:
        return Remains(
            0 if depth is None else depth.count + (depth.held or 0),
            self._store.letter_count(handler),
            self._store.backlog(handler).total,
            _last_worker(handler, presence),
        )

    def _asked(self, ask: Any) -> Any:
        try:
            return ask()
        except TopologyError:
            raise
        except Exception as error:  # the brokers' clients raise dozens of types
            raise TopologyError(f"The broker did not do its part: {error or type(error).__name__}") from error


def _is_gone(name: str, wanted: Wanted) -> bool:
    return is_handler(name) and service_of(name) == wanted.service and name not in wanted.handlers


def _last_worker(handler: str, presence: Presence) -> float | None:
    """When the last program that declared a handler gave its last sign of life; None: unknown."""
    declaring = {digest for digest, text in presence.descriptions.items() if handler in _declared_in(text)}
    seen = [program.seen for program in (*presence.workers, *presence.gone) if program.digest in declaring]
    return max(seen, default=None)


def _declared_in(description: str) -> Iterator[str]:
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        yield from [handler["name"] for handler in json.loads(description)["handlers"]]
