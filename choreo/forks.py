"""A guard for forked processes.

A forked child inherits objects, but no threads, and it shares its parent's sockets. A lock may be held by a thread that
does not exist in the child. So an object with threads, locks or connections registers here. In each child its
`after_fork` is called once, before any other code of choreo runs there.

The `cached_property` of kombu, and of Python 3.11, holds a lock of its class while it computes. In a child these locks
are new, too: else the child waits for a thread of its parent for ever.

Python does not see every fork: uWSGI forks in C, and by default tells nobody. So each object that holds a connection
calls `notice` before it uses it, which compares the process id.
"""

import logging
import os
import sys
import threading
from functools import cached_property
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that can start afresh in a forked child."""

    def after_fork(self) -> None:
        """Drop the parent's connections (without closing them for the parent), threads and locks. Must not raise."""


logger = logging.getLogger(__name__)

#: The packages whose cached properties have locks.
_LOCKING = frozenset({"celery", "kombu"})
_objects: "WeakSet[Forkable]" = WeakSet()
_pid = os.getpid()


def guard(forkable: Forkable) -> None:
    """Call ``forkable.after_fork()`` in every forked child. Holds a weak reference: the guard ends with the object."""
    _objects.add(forkable)


def notice() -> None:
    """Start afresh if this process was forked and nobody has told. Costs one comparison."""
    if os.getpid() != _pid:
        _in_child()


def _in_child() -> None:
    global _pid
    _pid = os.getpid()
    _renew_locks()
    for forkable in list(_objects):
        try:
            forkable.after_fork()
        except Exception:  # the others must not keep their parent's sockets because of one
            logger.exception("%r could not start afresh in a forked process", forkable)


def _renew_locks() -> None:
    """Give the cached properties of Celery's and kombu's classes new locks. Takes some milliseconds."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in _LOCKING]
    # A class is known to each module that imports it.
    classes = {known for module in modules for known in list(vars(module).values()) if isinstance(known, type)}
    for member in [member for known in classes for member in list(vars(known).values())]:
        if isinstance(member, cached_property) and hasattr(member, "lock"):
            member.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
