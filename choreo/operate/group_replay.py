"""Replays many dead letters: at a rate, one first if that is wanted, and no more once those before fail again."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice, repeat
from operator import attrgetter
from time import monotonic, sleep
from typing import Literal

from choreo.delivery.dead_letter import DeadLetter
from choreo.delivery.undeclared import service_of
from choreo.errors import DeadLetterError, StoreError
from choreo.operate.cabinet import Cabinet, Filed
from choreo.operate.followed import Followed
from choreo.operate.replays import Replays
from choreo.operate.which import Group
from choreo.printing import one_line
from choreo.store.port import Store

#: The size of the first batch without a rate, and of the largest one. Each is twice as large as the one before.
FIRST, LARGEST = 10, 500
#: Seconds in which the outcomes of a batch are waited for, without a rate. With a rate: those that a batch is sent for.
PATIENCE, TICK = 0.5, 0.25
#: So many letters must have failed again, and more than this share of the known outcomes, that the replay stops.
ENOUGH, SHARE = 10, 0.5
#: Seconds in which the outcome of the canary is waited for, and between two looks.
CANARY_SECONDS, HEARTBEAT = 60.0, 0.4


@dataclass(frozen=True, slots=True)
class Canary:
    """The letter that is replayed first, alone, and what became of it."""

    letter: DeadLetter
    #: "unknown": its run has not ended in time, or nobody lives to run it.
    outcome: Literal["done", "failed", "unknown"]
    #: The error, or why the outcome is unknown; "" if the run succeeded.
    text: str
    #: Seconds that the handler took; or, if no run is recorded, since the replay.
    took: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay, or another work on many letters, has come."""

    #: How many letters there were when it began.
    total: int
    #: How many were replayed (or discarded).
    done: int = 0
    #: How many were kept, or were gone.
    refused: int = 0
    #: How many of the replayed ones are known to have failed again, for good or until a retry.
    again: int = 0
    #: The last one that was replayed.
    last: DeadLetter | None = None
    #: Why letters were refused, since the progress before.
    errors: tuple[str, ...] = ()
    #: Why it has stopped, for people; "" if it has not, or all letters are done.
    text: str = ""
    #: True if it is over.
    ended: bool = False
    #: The first letter, in the progress that tells of it.
    canary: Canary | None = None

    @property
    def left(self) -> int:
        """How many letters are left."""
        return max(self.total - self.done - self.refused, 0)


@dataclass(frozen=True)
class Plan:
    """Letters that are to be replayed or discarded."""

    total: int
    #: Where they are. Read as they are needed.
    filed: Iterable[Filed]
    #: What they are, for the log of repairs: "a3f1 payment.charge".
    target: str
    #: What was named and is not there.
    errors: tuple[str, ...] = ()
    #: The groups that were named, with the number of letters that are meant.
    groups: Sequence[Group] = ()
    #: True if nothing was chosen.
    is_all: bool = False

    def check(self) -> None:
        """Raise `DeadLetterError` if nothing was chosen."""
        if self.is_all:
            raise DeadLetterError(
                "Name a group or a letter, or choose letters by their handler, cause, time or subject."
            )


class GroupReplay:
    """
    One replay of many letters. It can be made once.

    Parameters are those of `DeadLetters.replay_group`. ``on_end`` is a callback: it gets the number of letters
    that were replayed, also if the iteration is given up.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        plan: Plan,
        *,
        to: str | None = None,
        rate: float | None = None,
        canary: bool = False,
        on_end: Callable[[int], object] = bool,
    ) -> None:
        self._store, self._queue_of, self._cabinet = store, queue_of, Cabinet(store)
        self._plan, self._to, self._rate, self._canary = plan, to, rate, canary
        self._on_end = on_end
        self._progress = Progress(plan.total, errors=plan.errors)
        self._followed = Followed(store)

    def progress(self) -> Generator[Progress, None, None]:
        """Replay the letters batch by batch. Tells of each batch, and at least every half second while it waits."""
        left = iter(islice(self._plan.filed, self._plan.total))
        try:
            if self._canary:
                yield from self._first(left)
            yield from self._others(left)
            if not self._progress.ended:
                yield self._told(ended=True)
        finally:
            self._on_end(self._progress.done)

    def _first(self, left: Iterator[Filed]) -> Iterator[Progress]:
        """Replay one letter, and wait for its outcome. A letter that is refused is not it."""
        for filed in left:
            if letters := self._send([filed]):
                yield from self._outcome(letters[0], self._to or filed.handler)
                return
            yield self._told()

    def _outcome(self, letter: DeadLetter, handler: str) -> Iterator[Progress]:
        """Wait for the outcome of the canary."""
        began = monotonic()
        canary = Canary(letter, "unknown", why, 0.0) if (why := self._asleep(handler)) else None
        for pause in chain((0.02, 0.05, 0.1, 0.2), repeat(HEARTBEAT)):
            passed = monotonic() - began
            if canary is None and (outcome := self._followed.outcome(letter, handler)):
                took = outcome.took or passed
                canary = Canary(letter, "failed" if outcome.error else "done", outcome.error, took)
            if canary is None and passed > CANARY_SECONDS:
                canary = Canary(letter, "unknown", f"its run has not ended within {CANARY_SECONDS:.0f} s", passed)
            yield self._told(canary=canary)
            if canary is not None:
                return
            sleep(pause)

    def _others(self, left: Iterator[Filed]) -> Iterator[Progress]:
        began, before, size = monotonic(), self._progress.done, FIRST
        while batch := list(islice(left, self._size(size))):
            while (wait := self._wait(began, self._progress.done - before)) > 0:
                sleep(min(wait, HEARTBEAT))
                yield self._told()
            for _, filed in groupby(batch, attrgetter("handler")):
                self._send(list(filed))
            self._look(self._to or batch[-1].handler)
            text = self._why_stop()
            yield self._told(text=text, ended=bool(text))
            if text:
                return
            size = min(2 * size, LARGEST)

    def _size(self, growing: int) -> int:
        return growing if self._rate is None else min(max(round(self._rate * TICK), 1), LARGEST)

    def _wait(self, began: float, done: int) -> float:
        """Seconds until as much time has passed as ``done`` letters take."""
        return 0.0 if self._rate is None else began + done / self._rate - monotonic()

    def _send(self, filed: Sequence[Filed]) -> list[DeadLetter]:
        """Replay letters of one handler. Returns those that were."""
        letters = list(self._cabinet.letters(filed))
        handler = filed[0].handler
        # Before they are sent: an outcome may come at once.
        self._followed.add(letters, self._to or handler)
        outcomes = Replays(self._store, self._queue_of, handler, self._to).send(letters)
        self._followed.drop([letter for letter, _ in outcomes.refused], self._to or handler)
        gone = len(filed) - len(letters)
        errors = [str(error) for _, error in outcomes.refused]
        known = self._progress
        self._progress = replace(
            known,
            done=known.done + len(outcomes.replayed),
            refused=known.refused + len(errors) + gone,
            errors=(*known.errors, *errors),
            last=outcomes.replayed[-1] if outcomes.replayed else known.last,
        )
        return outcomes.replayed

    def _look(self, handler: str) -> None:
        """Learn the outcomes of those that were replayed. Without a rate, wait a little for those of this batch."""
        until = monotonic() + (PATIENCE if self._rate is None and not self._asleep(handler) else 0.0)
        while True:
            with suppress(StoreError):  # the replay itself has happened
                self._followed.look()
            if self._followed.is_settled or monotonic() >= until:
                return
            sleep(0.02)

    def _why_stop(self) -> str:
        failed, known = self._followed.failed, self._followed.known
        if failed < ENOUGH or failed <= SHARE * known:
            return ""
        return f"{failed} of the {known} whose outcome is known have failed again: {self._followed.error}"

    def _told(self, **changes: object) -> Progress:
        """The progress as it is told; the next one begins without its errors."""
        told = replace(self._progress, again=self._followed.failed, **changes)  # type: ignore[arg-type]
        self._progress = replace(told, errors=(), canary=None)
        return told

    def _asleep(self, handler: str) -> str:
        """Why nobody can run the canary now; "" if somebody can."""
        service, pause = service_of(handler), self._store.pause_of(handler)
        if pause is not None and pause.is_stop:
            return f"{one_line(handler)} is paused, and it waits in the queue until that is resumed"
        listening = self._store.listening(service)
        if listening is None or listening.workers:
            return ""
        return f"no worker of {one_line(service)} runs at the moment"
