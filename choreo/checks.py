"""What a service refuses when it is declared, and the words with the way out."""

from difflib import get_close_matches
from inspect import iscoroutinefunction, isfunction, signature
from typing import Any

from choreo.errors import DeclarationError
from choreo.event import Event
from choreo.reaction import describe
from choreo.retry import Retry


def check_name(kind: str, name: str) -> None:
    """Raise `DeclarationError` unless this can be part of a queue's name."""
    if not isinstance(name, str) or not name.isidentifier():
        raise DeclarationError(
            f"{name!r} is no name for a {kind}: it becomes part of queue names. Write it like a_name."
        )


def checked_retry(retry: object, where: str) -> Retry:
    """This retry. Raises `DeclarationError` when it is none."""
    if not isinstance(retry, Retry):
        raise DeclarationError(f"{where}: retry={retry!r} is not a Retry. Write retry=Retry(times=5).")
    return retry


def check_options(decorator: str, unknown: dict[str, Any], known: list[str]) -> None:
    """Raise `DeclarationError` if there are unknown options, with the known one that was meant."""
    for option in unknown:
        guess = get_close_matches(option, known, n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"it takes {', '.join(known)}."
        raise DeclarationError(f"@app.{decorator}({option}=...): unknown option, {hint}")


def check_called(decorator: str, topics: tuple[object, ...]) -> None:
    """Raise `DeclarationError` if the decorator was written without its parentheses."""
    if len(topics) == 1 and isfunction(topics[0]):
        raise DeclarationError(
            f"@app.{decorator} above {describe(topics[0])} names no event. Write @app.{decorator}(OrderPlaced)."
        )


def check_listener(function: object) -> None:
    """Raise `DeclarationError` unless this can be called with a dead letter."""
    try:
        if iscoroutinefunction(function):
            raise TypeError("it is async")
        signature(function).bind("a dead letter")  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"{function!r} cannot be the dead-letter handler: {error}. Write def tell_operators(letter: DeadLetter)."
        ) from error


def checked_event(event: object) -> Event:
    """This event. Raises `DeclarationError` when it is none, or an abstract one."""
    if not isinstance(event, Event) or not hasattr(event, "event_type"):
        raise DeclarationError(f"{event!r} cannot be announced: it is not an event. Write class OrderPlaced(Event).")
    return event
