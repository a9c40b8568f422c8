"""Publishing beside an event loop: what must not be awaited is refused, and what was awaited all the same is there."""

import dis
import logging
import sys
from collections.abc import Generator
from types import FrameType
from typing import Any, NoReturn, Self

from choreo.errors import AwaitError

logger = logging.getLogger(__name__)

#: True once this process has been told what to write in place of an await.
_is_told = False
_GET_AWAITABLE = dis.opmap["GET_AWAITABLE"]
#: Room for a cache behind an instruction: Python runs over it.
_CACHE = 0


def in_loop() -> bool:
    """True if an event loop of asyncio runs in this thread. Does not import asyncio, which takes a while."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def refuse_await(called: str, caller: FrameType) -> None:
    """
    Raise `AwaitError` if a function awaits the call that it is making: ``await app.publish(...)``.

    ``called`` is the method, ``caller`` the frame of the function. The bytecode behind the call shows the await, so
    nothing else is ever refused. It does not show another function in between, nor `asyncio.gather`: see `Ready`.
    """
    code = caller.f_code.co_code
    place = caller.f_lasti + 2
    while place < len(code) and code[place] == _CACHE:
        place += 2
    if place < len(code) and code[place] == _GET_AWAITABLE:
        raise AwaitError(
            f"await app.{called}(...): {called} cannot be awaited, and nothing was announced. Write: await "
            f"app.a{called}(...)"
        )


class Ready:
    """
    Base class of what `choreo.Service.publish` returns. It can be awaited in every form that `refuse_await` cannot see.

    By the time anything awaits it, the event is announced. An error would look as if it were not, and a program that
    tries again would announce the event twice. So `asyncio.gather`, `asyncio.create_task`, `asyncio.run` and the like
    return the result at once. The first of them in a process logs a warning with what to write instead.

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
            "ran while it waited for the broker. Write: await app.apublish(event)"
        )
