"""One guard for forked processes.

A forked child inherits objects, but none of the threads that worked for them, and it shares its parent's sockets. A
lock may be held by a thread that does not exist in the child. So an object with threads, locks or connections registers
here, and is told once in each child, before any other code of choreo runs there.
"""

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that can start afresh in a forked child."""

    def after_fork(self) -> None:
        """Drop what belongs to the parent: connections (without closing them there), threads, locks."""


_objects: "WeakSet[Forkable]" = WeakSet()


def guard(forkable: Forkable) -> None:
    """Call ``forkable.after_fork()`` in every forked child. Holds no reference: the guard ends with the object."""
    _objects.add(forkable)


def _in_child() -> None:
    for forkable in list(_objects):
        forkable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
