"""Follows replayed dead letters: which of them have failed again, by the record of runs and by new dead letters."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha1

from choreo.delivery.dead_letter import DeadLetter
from choreo.operate.cabinet import read
from choreo.store.letters import BEGINNING, Place
from choreo.store.port import Store
from choreo.store.runs import Result, Run

#: How many new dead letters of a handler are read at once.
PAGE = 100
#: The most letters that are followed at once.
MOST_FOLLOWED = 20_000
#: Seconds by which runs are looked for earlier than a replay was made, since the clocks of two machines differ.
MARGIN = 1.0
#: The results of a run after which the event is not handled.
_FAILED = (Result.RETRY, Result.DEAD)

#: A handler, and what it is to do: a unit, an event, or else the digest of a message.
_Work = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run of a replayed letter has ended."""

    #: The error in one line; "" if the run succeeded.
    error: str = ""
    #: Seconds that the handler took; 0: unknown.
    took: float = 0.0


class Followed:
    """
    The letters that were replayed, and how their runs have ended. Its methods raise `StoreError`.

    The last `MOST_FOLLOWED` of them are followed whose outcome is not known.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Handler → the store's time at which it was followed first, and the last of its dead letters that was read.
        self._since: dict[str, float] = {}
        self._read: dict[str, Place] = {}
        #: What has not succeeded so far, oldest first → the replayed letters, each with the ids of its events. A unit
        #: can have several: a join that has expired once for each time that its key was announced.
        self._open: dict[_Work, dict[str, list[str]]] = {}
        #: Handler and event → the work that it belongs to.
        self._works: dict[tuple[str, str], _Work] = {}
        #: The works that have failed → the error.
        self._failed: dict[_Work, str] = {}
        self._added = self._done = 0
        #: The work that `outcome` waits for, and its outcome.
        self._awaited: _Work | None = None
        self._found: Outcome | None = None

    def add(self, letters: Iterable[DeadLetter], handler: str) -> None:
        """Follow these letters, which are going to be replayed to this handler."""
        if handler not in self._since:
            self._since[handler] = self._store.now()
            newest = self._store.newest_letters(handler, 1)
            self._read[handler] = Place(newest[0][0], read(handler, newest[0][1]).id) if newest else BEGINNING
        for letter in letters:
            self._added += 1
            work = _work_of(letter, handler)
            events = [envelope.id for envelope in letter.envelopes]
            self._open.setdefault(work, {})[letter.id] = events
            self._works |= {(handler, event): work for event in events}
        while len(self._open) > MOST_FOLLOWED:
            self._forget(next(iter(self._open)))

    def drop(self, letters: Iterable[DeadLetter], handler: str) -> None:
        """Follow these no longer: they were not replayed."""
        for letter in letters:
            self._added -= 1
            work = _work_of(letter, handler)
            if not self._open.get(work, {}).keys() - {letter.id}:
                self._forget(work)
            else:
                self._drop_events(work, self._open[work].pop(letter.id, []))

    @property
    def is_settled(self) -> bool:
        """True if the outcomes of all are known."""
        return len(self._failed) >= len(self._open)

    @property
    def failed(self) -> int:
        """How many have failed again, and not succeeded since."""
        return len(self._failed)

    @property
    def known(self) -> int:
        """How many outcomes are known. If no success is recorded, all that were replayed and have not failed count."""
        return self._done + self.failed if self._done else self._added

    @property
    def error(self) -> str:
        """The last error; "" if there is none."""
        return next(reversed(self._failed.values()), "")

    def look(self) -> None:
        """Learn the outcomes that there are by now."""
        for handler, since in self._since.items():
            for run in self._runs(handler, since):
                work = self._works.get((handler, run.event))
                # The run that made the letter may have ended in this moment.
                if work is not None and run.letter not in self._open[work]:
                    self._settle(work, _outcome_of(run))
            for letter in self._new_letters(handler):
                self._settle(_work_of(letter, handler), Outcome(letter.error or str(letter.reason)))

    def outcome(self, letter: DeadLetter, handler: str) -> Outcome | None:
        """The outcome of one letter that is followed; None if it is not known yet."""
        work = _work_of(letter, handler)
        if work != self._awaited:
            self._awaited, self._found = work, None
        self.look()
        if self._found is None and self._store.is_finished(*work):
            # A dead letter is recorded in the same step: it is there now.
            self.look()
            if self._found is None:
                self._settle(work, Outcome())
        return self._found

    def _settle(self, work: _Work, outcome: Outcome) -> None:
        if work not in self._open:
            return
        if work == self._awaited:
            self._found = outcome
        self._failed.pop(work, None)
        if outcome.error:
            self._failed[work] = outcome.error
        else:
            self._done += 1
            self._forget(work)

    def _forget(self, work: _Work) -> None:
        self._failed.pop(work, None)
        for events in self._open.pop(work, {}).values():
            self._drop_events(work, events)

    def _drop_events(self, work: _Work, events: Iterable[str]) -> None:
        for event in events:
            self._works.pop((work[0], event), None)

    def _runs(self, handler: str, since: float) -> list[Run]:
        runs = self._store.recent(handler, self._store.now() - since + MARGIN)
        return [run for run in runs if run.at >= since]

    def _new_letters(self, handler: str) -> Iterator[DeadLetter]:
        while places := self._store.letter_places(handler, PAGE, self._read[handler]):
            self._read[handler] = places[-1]
            texts = self._store.letter_texts(handler, [place.id for place in places])
            yield from (read(handler, text) for text in texts if text is not None)


def _outcome_of(run: Run) -> Outcome:
    if run.result not in _FAILED:
        return Outcome("", run.took)
    error = run.detail.partition(" ")[2] if run.letter else run.detail
    return Outcome(error or "it failed", run.took)


def _work_of(letter: DeadLetter, handler: str) -> _Work:
    if letter.unit is not None and handler == letter.handler:
        return handler, letter.unit
    if letter.envelopes:
        return handler, letter.envelopes[0].identity
    return handler, sha1(letter.message.body, usedforsecurity=False).hexdigest()
