"""
Makes each failure one issue of Sentry, in a program that uses Sentry.

Nothing here imports Sentry, and nothing is done per event: all of it is about dead letters, and processes that ended.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from choreo.delivery.dead_letter import DeadLetter

#: Sentry cuts longer values of tags.
_LONGEST = 200
#: The logger of the prefork pool. It logs each process that ended, and not which run that ended.
_POOL = "multiprocessing"


def in_sentry(letter: DeadLetter) -> AbstractContextManager[None]:
    """
    Context manager: what is logged in it is one issue of Sentry for each handler and error, with tags to find it by.

    The tags are handler, reason, letter, and of the first event type, subject and story (its correlation id).
    """
    tags = {"handler": letter.handler, "reason": str(letter.reason), "letter": letter.id}
    if letter.envelopes:
        event = letter.envelopes[0]
        tags |= {"type": event.type, "subject": event.subject, "story": event.correlation_id}
    return _scope(lambda scope: _tag(scope, tags))


def about_handler(handler: str) -> AbstractContextManager[None]:
    """Context manager: what is logged in it is one issue of Sentry for each handler and error."""
    return _scope(lambda scope: _tag(scope, {"handler": handler}))


def unreported() -> AbstractContextManager[None]:
    """Context manager: nothing that is logged in it is an issue of Sentry. The dead letter that may follow is one."""
    return _scope(lambda scope: scope.add_event_processor(lambda *_: None))


def without_pool() -> None:
    """Let Sentry make no issue of a process of the pool that ended: the run that it ended is one."""
    logs = sys.modules.get("sentry_sdk.integrations.logging")
    if logs is not None:
        logs.ignore_logger(_POOL)


def _tag(scope: Any, tags: Mapping[str, str]) -> None:
    # Sentry's own grouping, apart for each handler.
    scope.fingerprint = [tags["handler"], "{{ default }}"]
    for name, value in tags.items():
        scope.set_tag(f"choreo.{name}", value[:_LONGEST])


def _scope(change: Callable[[Any], object]) -> AbstractContextManager[None]:
    new_scope = getattr(sys.modules.get("sentry_sdk"), "new_scope", None)  # None: older than 2
    return nullcontext() if new_scope is None else _changed(new_scope, change)


@contextmanager
def _changed(new_scope: Any, change: Callable[[Any], object]) -> Iterator[None]:
    with new_scope() as scope:
        change(scope)
        yield
