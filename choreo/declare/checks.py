"""What a service refuses when it is declared, and the words with the way out."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from inspect import iscoroutinefunction, isfunction, signature

from celery import Celery
from celery.app.defaults import SETTING_KEYS

from choreo.declare.reaction import describe
from choreo.declare.retry import Retry
from choreo.errors import DeclarationError
from choreo.events.event import Event


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


def check_options(where: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise `DeclarationError` if there are unknown options, with the known one that was meant."""
    for option in unknown:
        guess = get_close_matches(option, known, n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"it takes {', '.join(known) or 'none'}."
        raise DeclarationError(f"{where}({option}=...): unknown option, {hint}")


def check_service_options(options: Iterable[str], own: Sequence[str]) -> None:
    """Raise `DeclarationError` for what is neither ``own``, a parameter of `celery.Celery`, nor a Celery setting."""
    # The name and the configuration go to Celery under names of Service's own.
    taken = [name for name in signature(Celery).parameters if name not in ("main", "config_source", "kwargs")]
    unknown = [name for name in options if name not in taken and name not in SETTING_KEYS]
    check_options("Service", unknown, [*own, *taken])


def check_called(decorator: str, topics: tuple[object, ...]) -> None:
    """Raise `DeclarationError` if the decorator was written without its parentheses."""
    for topic in topics:
        if isfunction(topic):
            raise DeclarationError(
                f"@app.{decorator} above {describe(topic)} names no event. Write @app.{decorator}(OrderPlaced)."
            )
        if callable(topic) and not (isinstance(topic, type) and issubclass(topic, Event)):
            # Above a class the decorator would replace it with a function that nobody calls.
            raise DeclarationError(
                f"@app.{decorator}: {describe(topic)} is neither an event class nor a pattern. "
                f"Write @app.{decorator}(OrderPlaced) above a function."
            )


def check_listener(function: object) -> None:
    """Raise `DeclarationError` unless this can be called with a dead letter."""
    if function is None:
        raise DeclarationError("The dead-letter handler is declared without parentheses. Write @app.dead_letter.")
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
