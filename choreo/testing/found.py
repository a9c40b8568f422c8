"""The events that a test asked for."""

import dis
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Protocol, TypeVar

from choreo.events.event import Event

E = TypeVar("E", bound=Event)


class Story(Protocol):
    """Tells people about a test: the events that were announced, and the deliveries that were made."""

    def summary(self) -> str:
        """One line."""

    def whole(self) -> str:
        """Everything, line by line."""


class Found(list[E]):
    """
    The events that a test asked for, in the order in which they were announced. Each has its metadata: ``event.meta``.

    An ordinary list, except when a test expected other events: then it tells the story of the test. An empty list does
    so in its ``repr``, which a failed ``assert`` prints; `one`, and an unpacking, ``[assigned] = found``, in an error.
    """

    def __init__(self, events: Iterable[E], sought: str, story: Story) -> None:
        super().__init__(events)
        self._sought, self._story = sought, story

    def one(self) -> E:
        """The only event. Raises `AssertionError`, with the story, if there is none or more than one."""
        __tracebackhide__ = True  # pytest shows the line of the test
        if len(self) != 1:
            raise self._error(1)
        return self[0]

    def __iter__(self) -> Iterator[E]:
        __tracebackhide__ = True
        wanted = _unpacked_by(sys._getframe(1)) if hasattr(sys, "_getframe") else None
        if wanted is not None and wanted != len(self):
            raise self._error(wanted)
        return super().__iter__()

    def __repr__(self) -> str:
        return super().__repr__() if self else f"[] (no {self._sought}; {self._story.summary()})"

    def _error(self, wanted: int) -> AssertionError:
        count = f"{len(self) or 'no'} {self._sought}"
        return AssertionError(f"{count} instead of {wanted}.\n\n{self._story.whole()}")


def _unpacked_by(frame: FrameType) -> int | None:
    """The number of values that this frame unpacks right now: ``[a, b] = ...`` is 2. None if it does anything else."""
    # Python's own "not enough values to unpack (expected 1, got 0)" would not say why.
    code, place = frame.f_code.co_code, frame.f_lasti
    known = sys.implementation.name == "cpython" and 0 <= place < len(code) - 1
    return code[place + 1] if known and dis.opname[code[place]] == "UNPACK_SEQUENCE" else None
