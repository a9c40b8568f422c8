"""Derives an event type from a class name, and tells a fact from a command.

``OrderConfirmedByRestaurant`` travels as ``order.confirmed_by_restaurant``. The first word names the thing that the
event happened to; the other words say what happened, or how the thing is. `choreo.events.tense` judges whether they do.
"""

import re
from collections.abc import Sequence

from choreo.errors import DeclarationError, EventNameError
from choreo.events.tense import fact_of, is_fact

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_PATTERN = re.compile(r"([a-z][a-z0-9_]*|\*|#)(\.([a-z][a-z0-9_]*|\*|#))*")
_is_foreign = re.compile(r"[!-\"$-)+-~]{1,255}").fullmatch

#: The types of the alerts, which choreo itself announces: see `choreo.events.alerts`. It is no fault if no handler
#: listens to them.
OWN_TYPES = frozenset({"dead_letter.recorded", "handler.paused", "handler.resumed", "story.overdue"})


def words_of(class_name: str) -> list[str]:
    """Return the words of a class name: ``OrderPlaced`` → ``["order", "placed"]``."""
    return [word.lower() for word in _WORD.findall(class_name)]


def type_of(class_name: str) -> str:
    """
    Return the event type of a class name: ``OrderConfirmedByRestaurant`` → ``order.confirmed_by_restaurant``.

    Raises `DeclarationError` when the name is a single word.
    """
    first, *rest = words_of(class_name) or [""]
    if not rest:
        raise DeclarationError(
            f"{class_name} does not say what it happened to. Name it like OrderPlaced, "
            f'or give its type: class {class_name}(Event, type="order.placed").'
        )
    return f"{first}.{'_'.join(rest)}"


def is_type(text: str) -> bool:
    """True if this can be an event type: lower-case words with dots between them."""
    return _TYPE.fullmatch(text) is not None


def check_type(event_type: str) -> None:
    """Raise `DeclarationError` unless this is an event type that the broker can route."""
    if not isinstance(event_type, str) or not is_type(event_type):
        raise DeclarationError(
            f'{event_type!r} is not an event type. Write lower-case words with dots between them, like "order.placed".'
        )


def check_pattern(pattern: str) -> None:
    """Raise `DeclarationError` unless this is an event type, or a pattern with ``*`` (one word) or ``#`` (any)."""
    if not _PATTERN.fullmatch(pattern):
        raise DeclarationError(
            f'{pattern!r} is not an event type or pattern. Write "order.placed", "order.*" (one word) or "order.#".'
        )


def foreign_names(foreign: object, where: str) -> tuple[str, ...]:
    """
    The types under which other programs send an event, from the option ``foreign``: a text, or several.

    Raises `DeclarationError` for what a broker cannot route: AMQP allows 255 bytes, and * and # are patterns.
    """
    names = (foreign,) if isinstance(foreign, str) else foreign
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) and _is_foreign(name) for name in names):
        raise DeclarationError(
            f"{where}: foreign is {foreign!r}. It takes the type that another program sends, without spaces, * and #, "
            f'like "Microsoft.Storage.BlobCreated", or a tuple of such types.'
        )
    return tuple(names)


def check_fact(class_name: str, words: list[str]) -> None:
    """Raise `EventNameError` when the words are a command, not a fact, or the class name ends in "Event"."""
    bare = words[:-1] if words[-1] == "event" and words == words_of(class_name) else words
    is_ours = len(bare) > 1 and is_fact(bare)
    if is_ours and bare == words:
        return
    if is_ours:
        raise EventNameError(class_name, _camel(bare), given_type=type_of(_camel(bare)))
    fact = fact_of(bare)
    raise EventNameError(class_name, _camel(fact) if fact else None)


def _camel(words: Sequence[str]) -> str:
    return "".join(word.title() for word in words)
