"""
A property that is computed once, without a lock.

The one of Python 3.11 holds a lock while it computes, and a child that is forked meanwhile by another thread waits for
that lock for ever. The one of Python 3.12 has no lock, and two threads may get two values.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from functools import cached_property as cached_property
else:

    class cached_property:  # noqa: N801 - named as that of the standard library
        """
        Decorator: a property that is computed at its first use, and kept in the object.

        If several threads compute it at the same time, the first value counts for all of them.
        """

        def __init__(self, compute):
            self.compute, self.__doc__ = compute, compute.__doc__
            self._name = compute.__name__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            return vars(instance).setdefault(self._name, self.compute(instance))
