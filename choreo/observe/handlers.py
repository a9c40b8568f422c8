"""The state of each handler: what waits for it, how fast it works, who works for it."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from choreo.broker.depths import Depth
from choreo.delivery.undeclared import service_of
from choreo.store.pauses import Pause
from choreo.store.presence import Presence, Program
from choreo.store.runs import Run, shelf_of
from choreo.store.schedule import Backlog

#: Seconds over which the rates and the running times are taken.
WINDOW = 60.0
#: The most runs that are read of each list of a handler's record. A busier handler has its rates over less time.
EACH = 20
#: So many runs must have ended within some seconds, or nothing is known of the rate: a run may take longer than that.
ENOUGH = 4
#: Seconds after which a due message counts as late. Live workers are faster, also on a busy machine.
LATE = 10.0
#: Seconds for which a dead letter counts as new.
NEW = 600.0


@dataclass(frozen=True)
class HandlerState:
    """One handler, or the queue of a service's notices, as it is now. Times are in seconds, rates per second."""

    name: str
    #: The name of its queue on the broker.
    queue: str = ""
    #: The number of messages in its queue, without those that living workers hold. None: the broker did not tell.
    waiting: int | None = None
    #: The number of messages that living workers hold. None: the broker does not tell, as always on RabbitMQ.
    held: int | None = None
    #: How long ago the event was announced that is taken next. None: none waits, or the broker does not tell.
    oldest: float | None = None
    #: The subject of that event.
    subject: str = ""
    #: How often a message at the front of the queue came back because its worker died.
    returned: int = 0
    #: Events that came in, and runs that ended. None: unknown.
    incoming: float | None = None
    outgoing: float | None = None
    #: By how many messages per second its queue grows; negative if it shrinks. None: unknown.
    growth: float | None = None
    #: 95 of 100 runs took no longer than this. None: none is recorded.
    p95: float | None = None
    dead_letters: int = 0
    #: How long ago the oldest and the newest of its dead letters were made.
    oldest_letter: float | None = None
    newest_letter: float | None = None
    #: The most frequent error of its dead letters of the last ten minutes; "" if there are none.
    letter_error: str = ""
    #: Retries, deadlines and delayed events that wait in the store.
    backlog: Backlog = field(default_factory=Backlog)
    #: True if it was renamed or removed: no worker declares it any more.
    is_undeclared: bool = False
    #: Live workers of its service, and those of them that consume its queue.
    living: int = 0
    workers: int = 0
    #: How long ago any program of its service gave a sign of life. None: none ever did.
    unseen: float | None = None
    #: The module that makes the service, as `celery -A` takes it; "": unknown.
    module: str = ""
    #: The pools of the workers that consume its queue, each once.
    pools: tuple[str, ...] = ()
    #: Its pause; None: it is not paused.
    pause: Pause | None = None

    @property
    def service(self) -> str:
        """The name of its service."""
        return service_of(self.name)

    @property
    def has_work(self) -> bool:
        """True if something waits for it now."""
        return bool(self.waiting) or self.backlog.due > 0

    @property
    def clears_in(self) -> float | None:
        """Seconds until its queue is empty at this rate; infinite if it grows. None: unknown, steady, empty, paused."""
        is_stopped = self.pause is not None and self.pause.is_stop
        if is_stopped or not self.waiting or not self.outgoing or not self.workers or not self.growth:
            return None
        return math.inf if self.growth > 0 else self.waiting / -self.growth

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        derived = {"clears_in": self.clears_in, "trouble": self.trouble, "pause": self.pause and self.pause.to_dict()}
        if derived["clears_in"] == math.inf:
            derived["clears_in"] = None
        return asdict(self) | derived

    @property
    def trouble(self) -> str:
        """What is wrong and will not mend itself; "" if nothing is."""
        if self.is_undeclared and self.has_work:
            return f"no worker declares it any more: {retire(self.name)}"
        if self.has_work and not self.living:
            return f"no worker of {self.service} lives"
        if self.waiting and not self.workers:
            return "no worker consumes its queue"
        if self.backlog.due and self.backlog.late > LATE:
            return unsent(self.backlog)
        if self.newest_letter is not None and self.newest_letter < NEW:
            return f"new dead letters{f': {self.letter_error}' if self.letter_error else ''}"
        return ""


@dataclass(frozen=True)
class Facts:
    """What is known of one handler."""

    name: str
    queue: str
    now: float
    #: None: the broker did not answer.
    depth: Depth | None
    presence: Presence
    #: For each live worker that runs an older choreo, which does not tell what it consumes: the queues it declares.
    older: Sequence[frozenset[str]] = ()
    letters: int = 0
    #: The times of the oldest and the newest dead letter, in seconds since 1970.
    letter_times: tuple[float, float] | None = None
    #: The most frequent error of the new ones; "" if there are none.
    letter_error: str = ""
    backlog: Backlog = field(default_factory=Backlog)
    #: The runs of the last minute. None: nothing is recorded.
    runs: Sequence[Run] | None = None
    #: The share of stories that are recorded.
    sample: float = 1.0
    is_undeclared: bool = False
    pause: Pause | None = None

    def state(self) -> HandlerState:
        """The state that follows."""
        depth, living = self.depth, self.presence.workers
        consuming = [worker for worker in living if self.queue in worker.queues]
        programs = [*living, *self.presence.gone]
        return HandlerState(
            self.name,
            self.queue,
            waiting=depth.count if depth else None,
            held=depth.held if depth else None,
            oldest=self._age(depth.first if depth and depth.count else None),
            subject=depth.subject if depth else "",
            returned=depth.returned if depth else 0,
            outgoing=rate(self.runs, self.now, self.sample),
            p95=percentile([run.took for run in self.runs or ()], 0.95),
            dead_letters=self.letters,
            oldest_letter=self._age(self.letter_times and self.letter_times[0]),
            newest_letter=self._age(self.letter_times and self.letter_times[1]),
            letter_error=self.letter_error,
            backlog=self.backlog,
            is_undeclared=self.is_undeclared,
            living=len(living) or len(self.older),
            workers=len(consuming) or sum(self.queue in declared for declared in self.older),
            unseen=self._age(self.presence.seen or None),
            module=next((program.module for program in programs if program.module not in ("", "__main__")), ""),
            pools=tuple(sorted({worker.pool for worker in consuming})),
            pause=self.pause,
        )

    def _age(self, moment: float | None) -> float | None:
        return None if moment is None else max(self.now - moment, 0.0)


def retire(handler: str) -> str:
    """The command that removes a handler which no code declares any more."""
    return f"choreo topology retire {handler}"


def unsent(backlog: Backlog) -> str:
    """What is wrong with a schedule whose messages are late."""
    return f"a message is due since {backlog.late:.0f} s, and no worker sends it"


def rate(runs: Sequence[Run] | None, now: float, sample: float = 1.0, window: float = WINDOW) -> float | None:
    """
    Runs per second, over ``window`` seconds or as far as the runs go back. None: nothing is recorded.

    ``sample`` is the share of stories that are recorded.
    """
    if runs is None:
        return None
    # Each list of the record was read up to a bound of its own, and goes back as far as it does.
    times: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        times[shelf_of(run)].append(run.at)
    return (
        sum(len(its) / (window if len(its) < EACH else max(now - min(its), 0.001)) for its in times.values()) / sample
    )


def busy_rate(runs: Sequence[Run], now: float, since: float, sample: float = 1.0) -> float | None:
    """
    Runs per second since ``since``, when messages waited already. None: too few ended to tell.

    A rate over the last minute would count the time before, in which there was nothing to do.
    """
    seconds = min(now - since, WINDOW)
    recent = [run for run in runs if run.at > now - seconds]
    if seconds <= 0 or len(recent) < ENOUGH:
        return None
    return rate(recent, now, sample, seconds)


def percentile(values: Collection[float], share: float) -> float | None:
    """The value that this share of the values does not exceed. None: there are no values."""
    if not values:
        return None
    return sorted(values)[min(math.ceil(len(values) * share), len(values)) - 1]


def versions(workers: Sequence[Program]) -> list[tuple[str, int, float]]:
    """The versions of these workers, the newest start first: version, number of workers, start of the first of them."""
    counts = Counter(worker.version for worker in workers)
    since = {version: min(worker.since for worker in workers if worker.version == version) for version in counts}
    return [(version, counts[version], since[version]) for version in sorted(counts, key=lambda one: -since[one])]
