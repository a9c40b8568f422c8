"""Jobs: replays and discards of many dead letters. They belong to the server: a page that is closed ends none."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import uuid4

from choreo.errors import ChoreoError

logger = logging.getLogger("choreo.web")

#: The jobs that run at once, and the ended ones that are still shown.
MOST, KEPT = 4, 10


class Step(Protocol):
    """How far a job is: see `choreo.operate.group_replay.Progress`."""

    @property
    def total(self) -> int:
        """How many letters there are."""

    @property
    def done(self) -> int:
        """How many were replayed, or discarded."""

    @property
    def refused(self) -> int:
        """How many could not be."""

    @property
    def again(self) -> int:
        """How many failed again."""

    @property
    def text(self) -> str:
        """The same for people."""

    @property
    def ended(self) -> bool:
        """True if it will not go on."""

    @property
    def canary(self) -> object | None:
        """What became of the letter that was replayed first, in the step that tells of it."""


class State(StrEnum):
    """What a job does. The value is its name for people."""

    RUNNING = "running"
    #: One letter was replayed, and a person decides on the others.
    ASKING = "asks"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass
class Job:
    """A replay or a discard of many letters. Its fields are written by its own thread, and read by pages."""

    #: What it does, such as ``Replay of payment.charge: ConnectionError``.
    what: str
    #: The digest of the group; two jobs of one group do not run at once.
    group: str
    reason: str
    who: str
    id: str = field(default_factory=lambda: uuid4().hex[:8])
    state: State = State.RUNNING
    #: How far it is; None before the first step.
    step: Step | None = None
    #: What became of the first letter, if it was replayed alone.
    canary: object | None = None
    #: Why it failed; "" if it did not.
    error: str = ""
    #: Seconds since 1970, by this machine's clock. None: it has not ended.
    began: float = field(default_factory=time.time)
    ended: float | None = None
    _is_told: threading.Event = field(default_factory=threading.Event)
    _is_stopped: bool = False

    @property
    def is_over(self) -> bool:
        """True if it has ended."""
        return self.ended is not None

    def go_on(self) -> None:
        """Answer what it asks: the others, too. Nothing if it does not ask: an answer that comes first is none."""
        if self.state is State.ASKING:
            self._is_told.set()

    def stop(self) -> None:
        """End it after its current step."""
        self._is_stopped = True
        self._is_told.set()

    def run(self, steps: Callable[[], Iterator[Step]], *, asks: bool) -> None:
        """Go through all steps. ``asks``: waits for `go_on` after the first letter."""
        try:
            self.state = self._walked(steps(), asks)
        except ChoreoError as error:
            self.state, self.error = State.FAILED, str(error)
        except Exception as error:
            logger.exception("%s failed", self.what)
            self.state, self.error = State.FAILED, f"{type(error).__name__}: {error}"
        finally:
            self.ended = time.time()

    def _walked(self, steps: Iterator[Step], asks: bool) -> State:
        try:
            for self.step in steps:
                self.canary = self.step.canary or self.canary
                if asks and self.step.canary is not None and self._has_left:
                    self.state = State.ASKING
                    self._is_told.wait()
                    self.state = State.RUNNING
                if self._is_stopped:
                    return State.STOPPED
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
        return State.STOPPED if self._has_left else State.DONE

    @property
    def _has_left(self) -> bool:
        """True if it has ended before its last letter: too many failed again."""
        return self.step is not None and self.step.done + self.step.refused < self.step.total


class Jobs:
    """The jobs of one server. Safe in threads."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Job]:
        """Iterate over the jobs, the newest first: those that run, and a few that have ended."""
        with self._lock:
            return iter(self._jobs[::-1])

    def get(self, job_id: str) -> Job | None:
        """The job with this id."""
        return next((job for job in self if job.id == job_id), None)

    def of(self, group: str) -> Job | None:
        """The job that works on this group; None if none does."""
        return next((job for job in self if job.group == group and not job.is_over), None)

    def start(self, job: Job, steps: Callable[[], Iterator[Step]], *, asks: bool = False) -> None:
        """Start a job in a thread of its own. Raises `ChoreoError` if its group has one, or too many run."""
        with self._lock:
            running = [one for one in self._jobs if not one.is_over]
            if any(one.group == job.group for one in running):
                raise ChoreoError("Somebody works on this group already: see the page Dead letters.")
            if len(running) >= MOST:
                raise ChoreoError(f"{MOST} of these run already. Wait until one has ended, or stop one.")
            self._jobs = [*_kept(self._jobs), job]
        threading.Thread(
            target=job.run, args=(steps,), kwargs={"asks": asks}, name="choreo-web-job", daemon=True
        ).start()

    def close(self) -> None:
        """Stop all jobs."""
        for job in self:
            job.stop()


def _kept(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that run, and the newest of those that have ended."""
    jobs = list(jobs)
    over = [job for job in jobs if job.is_over][-KEPT:]
    return [job for job in jobs if not job.is_over or job in over]
