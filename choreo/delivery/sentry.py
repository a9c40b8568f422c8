"""Tells Sentry what a dead letter is about, if the program uses Sentry."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from choreo.delivery.dead_letter import DeadLetter

#: Sentry cuts longer values of tags.
_LONGEST = 200


def in_sentry(letter: DeadLetter) -> AbstractContextManager[None]:
    """
    Context manager: what is logged in it is one issue of Sentry per handler and error, with tags to find it by.

    The tags are handler, reason, letter, and of the first event type, subject and story (its correlation id). Nothing
    happens in a program that has not imported Sentry.
    """
    new_scope = getattr(sys.modules.get("sentry_sdk"), "new_scope", None)  # None: older than 2
    return nullcontext() if new_scope is None else _tagged(new_scope, letter)


@contextmanager
def _tagged(new_scope: Any, letter: DeadLetter) -> Iterator[None]:
    with new_scope() as scope:
        # Sentry's own grouping, apart for each handler.
        scope.fingerprint = [letter.handler, "{{ default }}"]
        for name, value in _tags(letter).items():
            scope.set_tag(f"choreo.{name}", value[:_LONGEST])
        yield


def _tags(letter: DeadLetter) -> dict[str, str]:
    tags = {"handler": letter.handler, "reason": str(letter.reason), "letter": letter.id}
    if letter.envelopes:
        event = letter.envelopes[0]
        tags |= {"type": event.type, "subject": event.subject, "story": event.correlation_id}
    return tags
