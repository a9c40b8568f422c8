"""Endings: how a process ended in the middle of a run. The worker's main process notes it in the store."""

import re
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from choreo.store.claims import LastEnd

#: The name of a consumer, or the token of a claim: host, process id, and something unique.
_HOLDER = re.compile(r"(?:.*_choreo\.inflight\.)?(?P<host>.+?)-(?P<pid>\d+)-[0-9a-f]{12,}(?:-\d+-\d+)?")


class End(StrEnum):
    """Why a process ended in the middle of a run."""

    #: The run took longer than its time limit. That is a failed attempt.
    TIME_LIMIT = "time_limit"
    #: An operator ended it: `celery control terminate`, or a revocation with a signal. The event becomes a dead letter.
    TERMINATED = "terminated"
    #: Anything else: a signal, an exit of its own. The event is begun again.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended in the middle of a run. ``text`` is for people."""

    end: End
    text: str

    def to_text(self) -> str:
        """Return the ending as a note for the store."""
        return f"{self.end} {self.text}"

    @classmethod
    def of(cls, last: LastEnd) -> Self | None:
        """Read the note of `to_text`, or name the process that began the run. None if nothing is known."""
        end, _, text = last.text.partition(" ")
        if end in set(End):
            return cls(End(end), text)
        holder = _HOLDER.fullmatch(last.holder)
        if holder is None:
            return None
        return cls(End.LOST, f"process {holder['pid']} on {holder['host']} ended, of which nothing more is known")


def process_in(holder: str) -> tuple[str, int] | None:
    """The host and the process id in the name of a consumer, or in the token of a claim; None if it has none."""
    found = _HOLDER.fullmatch(holder)
    return (found["host"], int(found["pid"])) if found else None


def signal_in_words(number: int) -> str:
    """A signal by its number and name: ``signal 9 (SIGKILL)``."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
