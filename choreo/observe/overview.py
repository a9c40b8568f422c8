"""What a look at the whole platform found: plain data, and what of it needs somebody."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from choreo.observe.division import Division
from choreo.observe.handlers import LATE, HandlerState, unsent
from choreo.observe.loops import Loop
from choreo.observe.server import Server
from choreo.store.pauses import Pause
from choreo.store.register import UnheardType
from choreo.store.schedule import Backlog


@dataclass(frozen=True)
class Coming:
    """What falls due within the next hour."""

    retries: int = 0
    deadlines: int = 0
    delayed: int = 0
    #: The first of them: seconds since 1970, and its handler; DELAYED for an event that was delayed outside of one.
    first_at: float | None = None
    first: str = ""
    #: True if a schedule holds more than was looked at.
    is_more: bool = False


@dataclass(frozen=True)
class Version:
    """Live workers of one service that run the same version of its code."""

    service: str
    #: "": unknown.
    version: str
    workers: int
    #: When the first of them started, in seconds since 1970.
    since: float


@dataclass(frozen=True)
class Intake:
    """The queue to which programs in other languages send events."""

    #: Its name on the broker.
    queue: str
    #: The number of events that wait in it.
    waiting: int = 0
    #: The number of live workers that take them over.
    workers: int = 0

    @property
    def trouble(self) -> str:
        """Why its events wait; "" if they do not, or a worker takes them over."""
        return f"{self.waiting} waiting, no worker takes them over" if self.waiting and not self.workers else ""


@dataclass(frozen=True)
class Overview:
    """The platform at one moment."""

    #: By the store's clock.
    at: datetime
    #: "" for no namespace.
    namespace: str
    handlers: Sequence[HandlerState] = ()
    versions: Sequence[Version] = ()
    #: Services whose live workers declare different handlers.
    divided: Sequence[Division] = ()
    servers: Sequence[Server] = ()
    #: All namespaces of this broker, if it tells.
    namespaces: Sequence[str] | None = None
    loops: Sequence[Loop] = ()
    coming: Coming = field(default_factory=Coming)
    #: The events that were delayed outside of handlers. None: only some services or handlers were asked for.
    delayed: Backlog | None = None
    #: None: only some services or handlers were asked for, or the broker does not answer.
    intake: Intake | None = None
    #: The types of events that reached no queue within the last day.
    unheard: Mapping[str, UnheardType] = field(default_factory=dict)
    #: Why the broker did not answer; "" if it did.
    broker_error: str = ""

    @property
    def delayed_trouble(self) -> str:
        """Why the events that were delayed outside of handlers do not leave; "" if they do."""
        return unsent(self.delayed) if self.delayed is not None and self.delayed.late > LATE else ""

    @property
    def overdue(self) -> int:
        """The number of messages that are late: due for more than `LATE` seconds, and not sent."""
        backlogs = [state.backlog for state in self.handlers] + ([self.delayed] if self.delayed else [])
        return sum(backlog.due for backlog in backlogs if backlog.late > LATE)

    @property
    def paused(self) -> list[Pause]:
        """The pauses of these handlers. A pause is no trouble: somebody wants it."""
        return [state.pause for state in self.handlers if state.pause is not None]

    @property
    def troubles(self) -> list[str]:
        """
        What needs somebody: one line each, empty if all is well.

        - the broker does not answer
        - a handler has messages, and no worker of its service lives, none consumes its queue, or none declares it
        - programs in other languages have sent events, and no worker takes them over
        - a message has been due for more than 10 seconds, and no worker sends it
        - a dead letter was made within the last 10 minutes
        - a Redis server has evicted keys, or may; its memory is nearly full; or it failed to write to its disk
        - live versions of one service handle the same event with different handlers
        - a loop: a story in which events cause events of their own type again and again
        """
        return [
            *([f"the broker does not answer: {self.broker_error}"] if self.broker_error else []),
            *[f"{state.name}: {state.trouble}" for state in self.handlers if state.trouble],
            *([f"delayed events: {self.delayed_trouble}"] if self.delayed_trouble else []),
            *([f"{self.intake.queue}: {self.intake.trouble}"] if self.intake and self.intake.trouble else []),
            *[f"Redis at {server.name} {server.trouble}" for server in self.servers if server.trouble],
            *[division.trouble for division in self.divided if division.trouble],
            *map(_looped, self.loops),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Times are in seconds, moments as texts."""
        handlers = [state.to_dict() for state in self.handlers]
        servers = [asdict(server) | {"trouble": server.trouble} for server in self.servers]
        return asdict(self) | {
            "at": self.at.isoformat(timespec="milliseconds"),
            "handlers": handlers,
            "servers": servers,
            "troubles": self.troubles,
        }


def _looped(loop: Loop) -> str:
    of = f"{loop.subject or loop.story} {{}} in a loop of {', '.join(loop.types)}"
    return f"{of.format('was')}, which ended as dead letter {loop.letter}" if loop.letter else of.format("is")
