"""Checks of a service's declarations. The messages name the wrong value and the correct form."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from inspect import iscoroutinefunction, isfunction, signature

from celery import Celery
from celery.app.defaults import SETTING_KEYS

from choreo.declare import settings
from choreo.declare.reaction import describe
from choreo.declare.retry import Retry
from choreo.errors import DeclarationError
from choreo.events.envelope import Envelope
from choreo.events.event import Event


def check_name(kind: str, name: str) -> None:
    """Raise `DeclarationError` unless this can be part of a queue's name. ``kind`` is "service" or "handler"."""
    if not isinstance(name, str) or not name.isidentifier():
        raise DeclarationError(
            f"{name!r} is not a valid name for a {kind}: it becomes part of queue names. Write it like a_name."
        )


def checked_retry(retry: object, where: str) -> Retry:
    """Return ``retry``. Raises `DeclarationError` when it is not a `Retry`. ``where`` begins the message."""
    if not isinstance(retry, Retry):
        raise DeclarationError(f"{where}: retry={retry!r} is not a Retry. Write retry=Retry(times=5).")
    return retry


def check_options(where: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise `DeclarationError` for the first unknown option. The message suggests a known one."""
    for option in unknown:
        guess = get_close_matches(option, known, n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"it takes {', '.join(known) or 'none'}."
        raise DeclarationError(f"{where}({option}=...): unknown option, {hint}")


def check_service_options(options: Iterable[str], own: Sequence[str]) -> None:
    """Raise `DeclarationError` for an option that is not in ``own``, no parameter of `celery.Celery` and no setting."""
    # Service takes these two under other names: `name` and `config`.
    taken = [name for name in signature(Celery).parameters if name not in ("main", "config_source", "kwargs")]
    unknown = [
        name for name in options if name not in taken and name not in SETTING_KEYS and name not in settings.SETTINGS
    ]
    settings.check_service_settings(unknown)
    # Celery's `namespace` separates nothing: it is the prefix of the names of settings.
    taken.remove("namespace")
    check_options("Service", unknown, [*own, *taken, *settings.SETTINGS])


def check_called(decorator: str, topics: tuple[object, ...]) -> None:
    """Raise `DeclarationError` if a topic is a function or class: the decorator was written without parentheses."""
    for topic in topics:
        if isfunction(topic):
            raise DeclarationError(
                f"@app.{decorator} above {describe(topic)} names no event. Write @app.{decorator}(OrderPlaced)."
            )
        if callable(topic) and not (isinstance(topic, type) and issubclass(topic, Event)):
            # The decorator would replace the class by a function that is never called.
            raise DeclarationError(
                f"@app.{decorator}: {describe(topic)} is neither an event class nor a pattern. "
                f"Write @app.{decorator}(OrderPlaced) above a function."
            )


def check_listener(function: object) -> None:
    """Raise `DeclarationError` unless the function can be called with one dead letter."""
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
    """Return ``event``. Raises `DeclarationError` when it is not an event, or of an abstract class."""
    if isinstance(event, Event) and hasattr(event, "event_type"):
        return event
    if isinstance(event, type) and issubclass(event, Event):
        fields = ", ".join(f"{name}=..." for name in event.model_fields)
        raise DeclarationError(
            f"{event.__name__} cannot be announced: it is a class of events. Announce one: {event.__name__}({fields})."
        )
    if isinstance(event, Event):
        name = type(event).__name__
        raise DeclarationError(
            f"{event!r} cannot be announced: {name} is abstract. Announce an event of a class that is not: "
            f"class OrderPlaced({name})."
        )
    if isinstance(event, Envelope):
        raise DeclarationError(
            f"the envelope of {event} cannot be announced as an event. To announce the same event again, call "
            f"app.publisher.announce([envelope])."
        )
    raise DeclarationError(f"{event!r} cannot be announced: it is not an event. Write class OrderPlaced(Event).")
