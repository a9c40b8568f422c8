"""A guard for forked processes.

A forked child inherits objects, but no threads, and it shares its parent's sockets. A lock may be held by a thread that
does not exist in the child. So an object with threads, locks or connections registers here. In each child its
`after_fork` is called once, before any other code of choreo runs there.
"""

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that can start afresh in a forked child."""

    def after_fork(self) -> None:
        """Drop the parent's connections (without closing them for the parent), threads and locks. Must not raise."""


_objects: "WeakSet[Forkable]" = WeakSet()


def guard(forkable: Forkable) -> None:
    """Call ``forkable.after_fork()`` in every forked child. Holds a weak reference: the guard ends with the object."""
    _objects.add(forkable)


def _in_child() -> None:
    for forkable in list(_objects):
        forkable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
