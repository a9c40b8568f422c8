"""Access: the least rights that each service of a platform needs, as recipes for Redis and RabbitMQ."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from choreo.broker.cloud_message import INTAKE
from choreo.events.naming import OWN_TYPES

#: The name of the user for people and their commands: `choreo`, `choreo web`, Flower.
OPERATOR = "choreo_operator"
#: The commands of Redis that choreo and Celery send. Keys and channels limit what they can reach.
COMMANDS = tuple(
    "-@all +@read +@write +@connection +@pubsub +@transaction +eval +evalsha +script|load +script|exists +time "
    "-@dangerous +info +config|get".split()
)
#: What a publisher, and a worker that gives back what a dead worker held, do with the queue of another service.
PUSH = "+type +lpush +rpush"
#: The end of the name of a queue with a priority: two control characters and a step.
PRIORITY = "??[369]"


@dataclass(frozen=True)
class Ground:
    """Where a platform is, as far as rights name it."""

    #: The namespace, with a dot, and the transport option `global_keyprefix`; "" for none.
    namespace: str = ""
    prefix: str = ""
    #: The start of the names of the store's keys.
    store: str = "choreo"
    #: The number of the broker's database in Redis.
    database: int = 0
    is_rabbitmq: bool = False
    #: The setting `choreo_cloudevents_exchange`; "" for none.
    plain_exchange: str = ""
    #: True if broker and store are one server of Redis.
    is_one_server: bool = True


@dataclass(frozen=True)
class Program:
    """A service, as far as its rights depend on what it declares."""

    name: str
    #: The types that it announces; None: it does not say.
    announces: Sequence[str] | None = ()
    #: The types and patterns that it hears.
    hears: Sequence[str] = ()


@dataclass(frozen=True)
class Rights:
    """The rights of one user."""

    user: str
    #: The rules of Redis for `ACL SETUSER`: on the broker and on the store. Empty: it needs no user there.
    broker: Sequence[str] = ()
    store: Sequence[str] = ()
    #: RabbitMQ's regular expressions: to configure, to write, to read. Empty: the broker is no RabbitMQ.
    permissions: Sequence[str] = ()
    #: The exchange and RabbitMQ's regular expressions for topics: to write, to read. Empty: it may use all of them.
    topics: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def rights_of(ground: Ground, programs: Sequence[Program], *, strict: bool = False) -> list[Rights]:
    """
    The rights of each of these services, and of the operator.

    ``strict`` limits the types of events that a user of RabbitMQ announces and hears.
    """
    names = [program.name for program in programs]
    return [*(_rights(ground, program, names, strict=strict) for program in programs), _operator(ground, names)]


def _rights(ground: Ground, program: Program, names: Sequence[str], *, strict: bool) -> Rights:
    store = _store_keys(ground, program.name)
    if ground.is_rabbitmq:
        topics = _topics(ground, program) if strict else ()
        return Rights(program.name, (), _rules(store), _permissions(ground, program.name), topics)
    broker = [*_queues(ground, program.name), *_control(ground, program.name), *_transport(ground)]
    others = _pushes(ground, [name for name in names if name != program.name])
    channels = _channels(ground)
    if ground.is_one_server:
        return Rights(program.name, _rules([*broker, *store], channels, others))
    return Rights(program.name, _rules(broker, channels, others), _rules(store))


def _operator(ground: Ground, names: Sequence[str]) -> Rights:
    store = [f"~{ground.store}:*"]
    if ground.is_rabbitmq:
        return Rights(OPERATOR, (), _rules(store), (".*", ".*", ".*"))
    queues = [f"~{ground.prefix}{ground.namespace}*"]
    if queues == ["~*"]:
        queues = [pattern for name in names for pattern in _queues(ground, name)]
    broker = [*queues, *_transport(ground), f"~{ground.prefix}*.pidbox*"]
    channels = _channels(ground)
    if ground.is_one_server:
        return Rights(OPERATOR, _rules([*broker, *store], channels))
    return Rights(OPERATOR, _rules(broker, channels), _rules(store))


def _rules(keys: Sequence[str], channels: Sequence[str] = (), selectors: Sequence[str] = ()) -> list[str]:
    return [*dict.fromkeys(keys), *channels, *COMMANDS, *selectors]


def _store_keys(ground: Ground, service: str) -> list[str]:
    start = f"~{ground.store}:"
    own = [f"{start}{{{service}}}:*", f"{start}{{{service}.*}}:*", f"{start}{{delayed}}:*"]
    return [*own, *(f"{start}{name}" for name in ("handlers", "joins", "services", "repairs", "unheard"))]


def _queues(ground: Ground, service: str) -> list[str]:
    name = f"~{ground.prefix}{ground.namespace}{service}"
    return [name, f"{name}.*", f"{name}{PRIORITY}"]


def _control(ground: Ground, service: str) -> list[str]:
    """The queues of remote control, of this service's nodes."""
    return [f"~{ground.prefix}{service}[.@]*.{ground.namespace}choreo.control.pidbox*"]


def _transport(ground: Ground) -> list[str]:
    start = f"~{ground.prefix}"
    replies = f"{start}*.reply.{ground.namespace}choreo.control.pidbox*"
    # Which services take in events of other programs is a setting of each.
    intake = f"{start}{ground.namespace}{INTAKE}*"
    return [f"{start}_kombu.*", f"{start}_choreo.*", f"{start}celeryev.*", replies, intake]


def _channels(ground: Ground) -> list[str]:
    start = f"&{ground.prefix}/{ground.database}."
    # For PSUBSCRIBE, Redis wants the very pattern: that of Flower, and that of gossip between workers.
    events = [f"{start}celeryev/*", f"{start}celeryev/worker.*", f"{start}celeryev"]
    return [f"{start}{ground.namespace}choreo.control.pidbox", *events]


def _pushes(ground: Ground, others: Sequence[str]) -> list[str]:
    """Selectors for the queues of other services. A common start of all names also covers services that come later."""
    start = f"{ground.prefix}{ground.namespace}"
    if start:
        return [f"({PUSH} %W~{start}*)"]
    return [f"({PUSH} {' '.join(_queues(ground, name)).replace('~', '%W~')})" for name in others]


def _permissions(ground: Ground, service: str) -> tuple[str, str, str]:
    space, name = re.escape(ground.namespace), re.escape(service)
    own = f"{space}{name}([.@].*)?|{space}choreo\\..*" + (f"|{name}(\\.[^@]*)?@.*" if space else "")
    names = f"^({own})$|reply\\.{space}choreo\\.control\\.pidbox$|^celeryev"
    plain = f"|^{re.escape(ground.plain_exchange)}$" if ground.plain_exchange else ""
    return names + plain, f"{names}|^amq\\.default${plain}", names


def _topics(ground: Ground, program: Program) -> tuple[str, str, str]:
    written = ".*" if program.announces is None else _one_of([*program.announces, *sorted(OWN_TYPES)])
    return f"{ground.namespace}choreo.events", written, _one_of(program.hears)


def _one_of(texts: Sequence[str]) -> str:
    return f"^({'|'.join(map(re.escape, dict.fromkeys(texts)))})$" if texts else "^$"
