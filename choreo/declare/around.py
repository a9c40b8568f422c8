"""Middleware: functions that are called around a handler. See docs/middleware.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from typing import Any

from choreo.declare.context import Context
from choreo.declare.join import Join
from choreo.declare.reaction import Given, Reaction, describe
from choreo.declare.subscription import Around, Subscription
from choreo.errors import DeclarationError, MiddlewareError
from choreo.events.envelope import Envelope

__all__ = ["Around", "Proceed", "checked_around", "checked_chain", "surrounded"]

#: Callback: calls the next middleware, or the handler. Returns the events that are going to be announced, and raises
#: the handler's errors. It may be called once.
Proceed = Callable[[], list[Envelope]]


@dataclass(frozen=True, slots=True)
class Surrounded(Reaction):
    """A reaction that is called through middleware, the first outermost."""

    around: tuple[Around, ...] = ()

    def __call__(self, given: Sequence[Given], context: Context) -> list[Envelope]:
        """Call the function with these events through the middleware, and list the events that it announces."""
        with context.active():
            self._enter(0, given, context)
        return self.announced(context)

    def _enter(self, place: int, given: Sequence[Given], context: Context) -> list[Envelope]:
        if place == len(self.around):
            self.call(given, context)
            return context.leaving
        middleware, calls = self.around[place], 0

        def proceed() -> list[Envelope]:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise MiddlewareError(
                    f"{describe(middleware)} called proceed() twice, which would run the handler twice."
                )
            return self._enter(place + 1, given, context)

        middleware(context, proceed)
        if not calls:
            raise MiddlewareError(
                f"{describe(middleware)} returned without calling proceed(): the event would be lost in silence. Call "
                f"it, or raise RetryLater or PermanentFailure."
            )
        return context.leaving


def surrounded(subscription: Subscription, outer: Sequence[Around]) -> Subscription:
    """
    The subscription with all its middleware. ``outer`` is the service's, outside the handler's own.

    Without any middleware its reactions are plain ones, which cost nothing more per event.
    """
    chain = (*outer, *subscription.around)
    wrapped: dict[str, Any] = {"reaction": _through(subscription.reaction, chain)}
    if isinstance(subscription, Join) and subscription.on_timeout is not None:
        wrapped["on_timeout"] = _through(subscription.on_timeout, chain)
    return replace(subscription, **wrapped)


def _through(reaction: Reaction, chain: tuple[Around, ...]) -> Reaction:
    own = {name: getattr(reaction, name) for name in _REACTION}
    return Surrounded(**own, around=chain) if chain else Reaction(**own)


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
        if any(iscoroutinefunction(one) or isasyncgenfunction(one) for one in called):
            raise TypeError("it is async")
        if any(isgeneratorfunction(one) for one in called):
            raise TypeError("it is a generator")
        signature(function).bind("context", "proceed")
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"{where}: {function!r} cannot be middleware: {error}. "
            f"Write def logged(context: Context, proceed: Proceed)."
        ) from error
    return function
