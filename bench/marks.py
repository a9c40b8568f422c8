"""
Counts handled events: one memory-mapped file per handler, with a count and a time for each event.

A mark costs about a microsecond and no system call, the same for every side. The benchmark reads the files while the
workers run. At the end they show which events were lost, and which were handled twice.
"""

import mmap
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.setting import current

_STAMP = 8


@dataclass(frozen=True)
class Tally:
    """Counts of a range of events, over all handlers that react to them."""

    #: The executions that should have happened.
    expected: int
    #: Those that did not happen.
    lost: int
    #: Those that happened more than once.
    repeated: int

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.expected + other.expected, self.lost + other.lost, self.repeated + other.repeated)


class Marks:
    """The counters of one handler. Events are numbered from 0 to ``capacity`` - 1."""

    def __init__(self, directory: str | Path, handler: str, capacity: int, *, create: bool = False) -> None:
        path = Path(directory, f"{handler}.marks")
        size = capacity * (1 + _STAMP)
        if create:
            with path.open("wb") as file:
                file.truncate(size)
        self.capacity = capacity
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def mark(self, number: int) -> None:
        """Record that event ``number`` was handled now."""
        self._map[number] = min(self._map[number] + 1, 255)
        struct.pack_into("d", self._map, self.capacity + _STAMP * number, time.monotonic())

    def handled(self, first: int, count: int) -> int:
        """Return how many of these events were handled at least once."""
        return count - self._map[first : first + count].count(0)

    def tally(self, first: int, count: int) -> Tally:
        """Return the counts of these events."""
        counts = self._map[first : first + count]
        once = counts.count(1)
        lost = counts.count(0)
        return Tally(expected=count, lost=lost, repeated=count - once - lost)

    def times(self, first: int, count: int) -> list[float]:
        """Return when each event was last handled, in seconds of CLOCK_MONOTONIC; 0.0 if it was not."""
        return list(struct.unpack_from(f"{count}d", self._map, self.capacity + _STAMP * first))

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


class Gate:
    """A gate for handlers: they wait while it is closed. So a backlog can be filled under running workers."""

    #: Bytes of the file: one for the gate, then one for each handler that has reached it.
    SIZE = 64

    def __init__(self, directory: str | Path, *, create: bool = False) -> None:
        path = Path(directory, "gate")
        if create:
            path.write_bytes(bytes(self.SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.SIZE)

    def close(self) -> None:
        """Close the gate."""
        self._map[:] = b"\1" + bytes(self.SIZE - 1)

    def open(self) -> None:
        """Open the gate."""
        self._map[0] = 0

    def waiting(self) -> int:
        """Return how many handlers have reached the closed gate."""
        return sum(self._map[1:])

    def pass_through(self, place: int) -> None:
        """Wait while the gate is closed. ``place`` is the number of the handler, from 0."""
        if self._map[0]:
            self._map[1 + place] = 1
            while self._map[0]:
                time.sleep(0.002)


@cache
def _marker(handler: str) -> Callable[[int], None]:
    setting = current()
    return Marks(setting.directory, handler, setting.capacity).mark


@cache
def _gate() -> Gate:
    return Gate(current().directory)


def mark(handler: str, number: int) -> None:
    """In a worker: record that this handler has handled this event."""
    _marker(handler)(number)


def pass_gate(place: int) -> None:
    """In a worker: wait while the gate is closed."""
    _gate().pass_through(place)
