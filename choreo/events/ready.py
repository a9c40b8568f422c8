"""Results that a coroutine may await, although they are there at once."""

import logging
from collections.abc import Generator
from typing import Any, NoReturn, Self

logger = logging.getLogger(__name__)

#: True once this process has been told what to write in place of an await.
_is_told = False


class Ready:
    """
    Base class of what `choreo.Service.publish` returns. It can be awaited in every form.

    By the time anything awaits it, the event is announced. An error would look as if it were not, and a program that
    tries again would announce the event twice. So ``await``, `asyncio.gather`, `asyncio.create_task`, `asyncio.run` and
    the like return the result at once. The first of them in a process logs a warning with what to write instead.

    asyncio takes every object with these four methods for a coroutine: see `collections.abc.Coroutine`.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Self]:
        """Return the result at once."""
        _tell()
        return self
        yield

    def send(self, value: object) -> NoReturn:  # noqa: ARG002 - the signature of a coroutine
        """For asyncio only: end at once, with the result. It sends nothing to a broker."""
        _tell()
        raise StopIteration(self)

    def throw(self, error: Any, value: Any = None, trace: Any = None) -> NoReturn:  # noqa: ARG002
        """For asyncio only: end with this error. A task that is cancelled before it begins gets `CancelledError`."""
        raise error

    def close(self) -> None:
        """For asyncio only: do nothing."""


def _tell() -> None:
    global _is_told
    if not _is_told:
        _is_told = True
        logger.warning(
            "The result of app.publish(...) was awaited. The event was announced before that, and no other coroutine "
            "ran while it waited for the broker. Write: await asyncio.to_thread(app.publish, event)"
        )
