"""Checks of a service's declarations. The messages name the wrong value and the correct form."""

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from inspect import isfunction, signature
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.app.defaults import SETTING_KEYS
from celery.utils.time import rate

from choreo.declare import settings
from choreo.declare.retry import Retry
from choreo.durations import is_wait
from choreo.errors import DeclarationError
from choreo.events.envelope import Envelope

if TYPE_CHECKING:
    from choreo.events.event import Event

#: Celery's options of a task that a handler takes as well. All others are choreo's to decide, or have another place.
TASK_OPTIONS = ("time_limit", "soft_time_limit", "rate_limit", "priority")

_RETRY = "how often and when a handler is called again is one option: retry=Retry(times=3, first=1.0)."
_OWN_QUEUE = (
    "each handler has a queue of its own, <service>.<function>. name= renames both; a worker of this queue alone is "
    "`celery -A ... worker -Q <service>.<function>`."
)
_SAFE = "choreo acknowledges an event when its outcome is recorded, so this cannot be chosen. Leave it out."
_NO_RESULT = "a handler has no result: it announces events. For a task with a result write @app.task."
_DELAY = "when an event is sent is said where it is announced: app.publish(event, delay=60)."
#: Celery's options of a task, and where their purpose is served.
_ELSEWHERE = {
    **dict.fromkeys(
        "max_retries retries default_retry_delay retry_backoff retry_backoff_max retry_jitter retry_kwargs "
        "retry_policy".split(),
        _RETRY,
    ),
    "autoretry_for": "every error is retried; retry=Retry(never=(CardDeclined,)) names those that are not.",
    "dont_autoretry_for": "name the errors that are never retried in retry=Retry(never=(CardDeclined,)).",
    "throws": "name the errors that are never retried in retry=Retry(never=(CardDeclined,)).",
    **dict.fromkeys("queue queues exchange routing_key".split(), _OWN_QUEUE),
    **dict.fromkeys(
        "acks_late acks_on_failure acks_on_timeout acks_on_failure_or_timeout reject_on_worker_lost "
        "retry_on_worker_lost".split(),
        _SAFE,
    ),
    **dict.fromkeys("ignore_result store_errors_even_if_ignored track_started result backend".split(), _NO_RESULT),
    **dict.fromkeys("countdown eta delay at".split(), _DELAY),
    "expires": "an event does not expire. A handler can compare event.meta.time with the time now.",
    "serializer": "events travel as JSON.",
    "compression": "events travel as JSON, without compression.",
    "bind": "a handler gets what it wants to know of its run as a parameter: context: Context.",
    "base": "what is to happen around a handler is middleware: around=[...], or @app.around.",
    "concurrency": "it is an option of a handler of single events: @app.on(OrderPlaced, concurrency=1). How many "
    "handlers run at a time in a worker is the worker's: `celery -A ... worker --concurrency 4`.",
    "sequential_by": "a join has one run for each key already, and its parts may come in any order. It is an option of "
    'a handler of single events: @app.on(OrderPlaced, sequential_by="subject").',
    "timeout": "write time_limit=30 (seconds); it needs the prefork pool.",
    "batch": (
        "only a handler of single events is called in batches: @app.on(OrderPlaced, batch=Batch(size=100)). A join "
        "and a story wait for the events of one subject, and are called once for each."
    ),
    "subject": "a handler is called for every subject. For one of them write an `if` in it.",
}


def check_name(kind: str, name: str) -> None:
    """Raise `DeclarationError` unless this can be part of a queue's name. ``kind`` says what the name is for."""
    if not isinstance(name, str) or not name.isidentifier():
        raise DeclarationError(
            f"{name!r} is not a valid name for a {kind}: it becomes part of queue names. Write it like a_name."
        )


def checked_retry(retry: object, where: str) -> Retry:
    """Return ``retry``. Raises `DeclarationError` when it is not a `Retry`. ``where`` begins the message."""
    if not isinstance(retry, Retry):
        raise DeclarationError(f"{where}: retry={retry!r} is not a Retry. Write retry=Retry(times=5).")
    return retry


def checked_task_options(where: str, **options: Any) -> tuple[tuple[str, Any], ...]:
    """Return those of `TASK_OPTIONS` that are given. Raises `DeclarationError` for a value that Celery cannot use."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("time_limit", "soft_time_limit"):
        seconds = given.get(name, 1)
        if isinstance(seconds, timedelta) or not is_wait(seconds, above=0):
            raise DeclarationError(f"{where}: {name}={seconds!r} is not a number of seconds above 0.")
    if given.get("soft_time_limit", 0) >= given.get("time_limit", math.inf):
        raise DeclarationError(
            f"{where}: soft_time_limit={given['soft_time_limit']!r} must be less than time_limit="
            f"{given['time_limit']!r}, or the handler is ended before it can react."
        )
    limit = given.get("rate_limit", 1)
    if isinstance(limit, bool) or not _is_rate(limit):
        raise DeclarationError(f'{where}: rate_limit={limit!r} is not a rate. Write it like "10/m", or as a number.')
    priority = given.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 255:
        raise DeclarationError(f"{where}: priority={priority!r} is not a whole number from 0 to 255.")
    return tuple(given.items())


def _is_rate(limit: object) -> bool:
    try:
        return bool(rate(limit) > 0)
    except (TypeError, ValueError, KeyError, AttributeError):
        return False


def check_options(where: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise `DeclarationError` for the first unknown option. The message suggests a known one."""
    for option in unknown:
        if option in _ELSEWHERE and "retry" in known and where != "Service":
            raise DeclarationError(f"{where}({option}=...): {_ELSEWHERE[option]}")
        from choreo.guesses import hint

        raise DeclarationError(f"{where}({option}=...): unknown option, {hint(option, known, 'it takes')}")


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


def checked_announces(announces: object, where: str) -> "tuple[type[Event], ...] | None":
    """
    Return ``announces`` of a service. None: it was not given.

    Raises `DeclarationError` unless these are classes of events that can be announced, each once.
    """
    if announces is None:
        return None
    from choreo.declare.reaction import describe
    from choreo.events.event import Event

    if isinstance(announces, (str, type)) or not isinstance(announces, Iterable):
        raise DeclarationError(
            f"{where}: announces={announces!r} is not a list of event classes. Write announces=[OrderPlaced]."
        )
    events = tuple(announces)
    for event in events:
        if isinstance(event, type) and issubclass(event, Event) and hasattr(event, "event_type"):
            continue
        what = describe(event) if isinstance(event, type) else repr(event)
        reason = "abstract" if isinstance(event, type) and issubclass(event, Event) else "not an event class"
        raise DeclarationError(f"{where}: announces= names {what}, which is {reason}. Write announces=[OrderPlaced].")
    types = [event.event_type for event in events]
    if len(set(types)) < len(types):
        raise DeclarationError(f"{where}: announces= names the same event twice: {', '.join(sorted(types))}.")
    return events


def check_called(decorator: str, topics: tuple[object, ...]) -> None:
    """Raise `DeclarationError` if a topic is a function or class: the decorator was written without parentheses."""
    from choreo.declare.reaction import describe
    from choreo.events.event import Event

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
        signature(function).bind("a dead letter")  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"{function!r} cannot be the dead-letter handler: {error}. Write def tell_operators(letter: DeadLetter)."
        ) from error


def check_events(events: object) -> None:
    """Raise `DeclarationError` for one event in place of several."""
    from choreo.events.event import Event

    if isinstance(events, Event) or (isinstance(events, type) and issubclass(events, Event)):
        name = events.__name__ if isinstance(events, type) else type(events).__name__
        raise DeclarationError(f"publish_many takes events, not one: publish_many([{name}(...)]), or publish it.")


def checked_event(event: object) -> "Event":
    """Return ``event``. Raises `DeclarationError` when it is not an event, or of an abstract class."""
    from choreo.events.event import Event

    if isinstance(event, Event) and hasattr(event, "event_type"):
        return event
    if isinstance(event, type) and issubclass(event, Event) and hasattr(event, "event_type"):
        fields = ", ".join(f"{name}=..." for name in event.model_fields)
        raise DeclarationError(
            f"{event.__name__} cannot be announced: it is a class of events. Announce one: {event.__name__}({fields})."
        )
    if isinstance(event, Event) or (isinstance(event, type) and issubclass(event, Event)):
        name = event.__name__ if isinstance(event, type) else type(event).__name__
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
