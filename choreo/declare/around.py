"""Middleware: functions that are called around a handler. See docs/middleware.md."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from itertools import takewhile
from typing import Any, cast

from choreo.declare.context import Context
from choreo.declare.join import Join
from choreo.declare.reaction import AsyncReaction, Given, Reaction, describe, is_async
from choreo.declare.story import Story
from choreo.declare.subscription import Around, Subscription
from choreo.errors import DeclarationError, MiddlewareError
from choreo.events.envelope import Envelope

__all__ = ["Around", "AsyncProceed", "Proceed", "checked_around", "checked_chain", "surrounded"]

#: Callback: calls the next middleware, or the handler. Returns the events that are going to be announced, and raises
#: the handler's errors. It may be called once.
Proceed = Callable[[], list[Envelope]]

#: The same for ``async def`` middleware, which awaits it.
AsyncProceed = Callable[[], Awaitable[list[Envelope]]]


@dataclass(frozen=True, slots=True)
class Surrounded(Reaction):
    """A reaction that is called through middleware, the first outermost."""

    around: tuple[Around, ...] = ()
    #: The ``async def`` handler inside, with its own ``async def`` middleware; None if the function is a plain one.
    inner: AsyncReaction | None = None

    def __call__(self, given: Sequence[Given], context: Context) -> list[Envelope]:
        """Call the function with these events through the middleware, and list the events that it announces."""
        with context.active():
            self._enter(0, given, context)
        return self.announced(context)

    def call(self, given: Sequence[Given], context: Context) -> None:
        """Call the function inside its context. An ``async def`` one runs on the event loop, and this thread waits."""
        if self.inner is None:
            Reaction.call(self, given, context)
        else:
            from choreo import event_loop

            event_loop.wait(self.inner.await_call(given, context), context.handler)

    def _enter(self, place: int, given: Sequence[Given], context: Context) -> list[Envelope]:
        if place == len(self.around):
            self.call(given, context)
            return context.leaving
        middleware, calls = self.around[place], 0

        def proceed() -> list[Envelope]:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise _twice(middleware)
            return self._enter(place + 1, given, context)

        middleware(context, proceed)
        if not calls:
            raise _never(middleware, "calling")
        return context.leaving


@dataclass(frozen=True, slots=True)
class AsyncSurrounded(AsyncReaction):
    """An ``async def`` handler that is called through ``async def`` middleware, the first outermost."""

    around: tuple[Around, ...] = ()

    async def await_call(self, given: Sequence[Given], context: Context) -> None:
        """Call and await the function through the middleware, inside its context."""
        await self._enter(0, given, context)

    async def _enter(self, place: int, given: Sequence[Given], context: Context) -> list[Envelope]:
        if place == len(self.around):
            await AsyncReaction.await_call(self, given, context)
            return context.leaving
        middleware, calls = self.around[place], 0

        async def proceed() -> list[Envelope]:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise _twice(middleware)
            return await self._enter(place + 1, given, context)

        await cast(Callable[[Context, AsyncProceed], Awaitable[object]], middleware)(context, proceed)
        if not calls:
            raise _never(middleware, "awaiting")
        return context.leaving


def _twice(middleware: Around) -> MiddlewareError:
    return MiddlewareError(f"{describe(middleware)} called proceed() twice, which would run the handler twice.")


def _never(middleware: Around, doing: str) -> MiddlewareError:
    how = "Call it" if doing == "calling" else "Write `await proceed()`"
    return MiddlewareError(
        f"{describe(middleware)} returned without {doing} proceed(): the event would be lost in silence. {how}, or "
        f"raise RetryLater or PermanentFailure."
    )


def surrounded(subscription: Subscription, outer: Sequence[Around]) -> Subscription:
    """
    The subscription with all its middleware. ``outer`` is the service's, outside the handler's own.

    Without any middleware its reactions are plain ones, which cost nothing more per event. Raises `DeclarationError`
    for ``async def`` middleware around a plain function.
    """
    if isinstance(subscription, Story):
        return subscription  # it calls no function
    chain = (*outer, *subscription.around)
    wrapped: dict[str, Any] = {"reaction": _through(subscription.reaction, chain)}
    if isinstance(subscription, Join) and subscription.on_timeout is not None:
        wrapped["on_timeout"] = _through(subscription.on_timeout, chain)
    return replace(subscription, **wrapped)


def _through(reaction: Reaction, chain: tuple[Around, ...]) -> Reaction:
    own = {name: getattr(reaction, name) for name in _REACTION}
    if not is_async(reaction.function):
        if outer := next(filter(_is_async, chain), None):
            raise _around_plain(outer, f"{describe(reaction.function)}, which is a plain function")
        return Surrounded(**own, around=chain) if chain else Reaction(**own)
    plain = tuple(takewhile(lambda one: not _is_async(one), chain))
    awaiting = chain[len(plain) :]
    if inside := next((one for one in awaiting if not _is_async(one)), None):
        raise _around_plain(awaiting[0], f"{describe(inside)}, which is plain middleware")
    inner = AsyncSurrounded(**own, around=awaiting) if awaiting else AsyncReaction(**own)
    return Surrounded(**own, around=plain, inner=inner) if plain else inner


def _around_plain(middleware: Around, what: str) -> DeclarationError:
    """The error for ``async def`` middleware around what would block the event loop."""
    return DeclarationError(
        f"{describe(middleware)} is `async def` middleware around {what}: it would block the event loop. Write the "
        f"middleware as `def`, which works around both kinds of handlers; or write `async def` inside it."
    )


def _is_async(middleware: Around) -> bool:
    called: Any = (middleware, type(middleware).__call__)
    return any(map(iscoroutinefunction, called))


_REACTION = [field.name for field in fields(Reaction)]


def checked_chain(around: object, where: str) -> tuple[Around, ...]:
    """The middleware of one handler, checked. Raises `DeclarationError` unless it is a list of such functions."""
    if not isinstance(around, Sequence) or isinstance(around, str):
        name = describe(around) if callable(around) else repr(around)
        raise DeclarationError(f"{where}: around takes a list of functions. Write around=[{name}].")
    return tuple(checked_around(one, where) for one in around)


def checked_around(function: object, where: str) -> Around:
    """This function. Raises `DeclarationError` unless it can be called with a context and ``proceed``."""
    try:
        if not callable(function):
            raise TypeError("it is no function")
        kind: Any = type(function)
        called = (function, kind.__call__)  # the second is the method of an object that is no function
        if any(isgeneratorfunction(one) or isasyncgenfunction(one) for one in called):
            raise TypeError("it is a generator")
        signature(function).bind("context", "proceed")
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"{where}: {function!r} cannot be middleware: {error}. "
            f"Write def logged(context: Context, proceed: Proceed), or async def ...(context, proceed: AsyncProceed)."
        ) from error
    return function
