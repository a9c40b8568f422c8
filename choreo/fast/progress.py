"""How far the children of a prefork pool have come with their bundles: memory that they share with the worker."""

import mmap
import struct
from time import monotonic

#: The most runs in one bundle.
MOST_TOGETHER = 16

#: A slot: the `monotonic` time at which the run in hand began, how many runs have begun, and a mark for each run that
#: the worker has withdrawn.
_BEGAN = struct.Struct("d")
_COUNT = _BEGAN.size
_MARKS = _COUNT + 1
_SIZE = 32


class Progress:
    """
    One slot for each bundle that is with a child. The child writes there which run it begins, and the worker reads it.

    So the worker knows, also after a child was killed, which run of a bundle was in hand; and it can withdraw a run
    that has not begun. It is made before the pool forks its children, which inherit it.
    """

    def __init__(self, slots: int) -> None:
        """``slots``: the most bundles that are with the children at a time."""
        self._memory = mmap.mmap(-1, slots * _SIZE)
        self._free = list(range(slots))

    # -- in the worker -------------------------------------------------------------------------------------------------

    def take(self) -> int | None:
        """Reserve a slot, in which no run has begun. None if all are in use."""
        if not self._free:
            return None
        slot = self._free.pop()
        at = slot * _SIZE
        self._memory[at : at + _SIZE] = bytes(_SIZE)
        return slot

    def give_back(self, slot: int) -> None:
        """Release a slot."""
        self._free.append(slot)

    def begun(self, slot: int) -> tuple[int, float]:
        """How many runs have begun, and the `monotonic` time at which the last of them did."""
        at = slot * _SIZE
        return self._memory[at + _COUNT], _BEGAN.unpack_from(self._memory, at)[0]

    def withdraw(self, slot: int, index: int) -> bool:
        """Keep a run from beginning. False if it has begun."""
        at = slot * _SIZE
        # The child writes that it begins, and then looks for the mark. So at least one of the two sees the other.
        self._memory[at + _MARKS + index] = 1
        return self._memory[at + _COUNT] <= index

    # -- in a child ----------------------------------------------------------------------------------------------------

    def begin(self, slot: int, index: int) -> bool:
        """Note that this run begins. False if it was withdrawn, and must not begin."""
        at = slot * _SIZE
        _BEGAN.pack_into(self._memory, at, monotonic())
        self._memory[at + _COUNT] = index + 1
        return not self._memory[at + _MARKS + index]
