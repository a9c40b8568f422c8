"""
Counting who handled what: one memory-mapped file per handler, with a count and a time for each event.

A handler's mark costs about a microsecond and no system call, the same for every side. The driver reads the files
while the workers run, and knows at the end which events were lost and which were handled twice.
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
    """How often the events of one range were handled, over all handlers that should have."""

    expected: int
    lost: int
    repeated: int

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.expected + other.expected, self.lost + other.lost, self.repeated + other.repeated)


class Marks:
    """The counter of one handler. Numbers below ``capacity`` name the events."""

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
        """Event ``number`` was handled, now."""
        self._map[number] = min(self._map[number] + 1, 255)
        struct.pack_into("d", self._map, self.capacity + _STAMP * number, time.monotonic())

    def handled(self, first: int, count: int) -> int:
        """How many of these events were handled at least once."""
        return count - self._map[first : first + count].count(0)

    def tally(self, first: int, count: int) -> Tally:
        """What became of these events."""
        counts = self._map[first : first + count]
        once = counts.count(1)
        lost = counts.count(0)
        return Tally(expected=count, lost=lost, repeated=count - once - lost)

    def times(self, first: int, count: int) -> list[float]:
        """When each of these events was last handled, by CLOCK_MONOTONIC; 0.0 for one that was not."""
        return list(struct.unpack_from(f"{count}d", self._map, self.capacity + _STAMP * first))

    def close(self) -> None:
        self._map.close()


class Gate:
    """While it is closed, handlers that pass through it wait. So a backlog can be filled under running workers."""

    #: One byte for the gate, then one per handler that waits or has waited at it.
    SIZE = 64

    def __init__(self, directory: str | Path, *, create: bool = False) -> None:
        path = Path(directory, "gate")
        if create:
            path.write_bytes(bytes(self.SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.SIZE)

    def close(self) -> None:
        self._map[:] = b"\1" + bytes(self.SIZE - 1)

    def open(self) -> None:
        self._map[0] = 0

    def waiting(self) -> int:
        """How many handlers have come to the closed gate."""
        return sum(self._map[1:])

    def pass_through(self, place: int) -> None:
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
    """In a worker: this handler has handled this event."""
    _marker(handler)(number)


def pass_gate(place: int) -> None:
    """In a worker: wait while the gate is closed."""
    _gate().pass_through(place)
