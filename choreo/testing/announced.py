"""For tests of handlers, which are plain functions: events with the metadata of announced events."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from choreo.events.event import Event
from choreo.events.metadata import Meta, checked_meta, joined

E = TypeVar("E", bound=Event)


def announced(
    event: E,
    subject: str = "",
    *,
    id: str | None = None,  # noqa: A002 - as it is called in an envelope
    correlation_id: str | None = None,
    causation_id: str | None = None,
    source: str = "test",
    time: datetime | None = None,
    meta: Meta | None = None,
) -> E:
    """
    Return a copy of this event with metadata, as a handler gets it. Nothing is sent.

        >>> placed = announced(OrderPlaced(customer_id="alice"), subject="ORD-1")
        >>> placed.meta.subject
        'ORD-1'

    Metadata that is not given is that of the first event of a story: a new id, which is also the correlation id, no
    causation id, and the time of the call (UTC). ``meta`` is that of `choreo.Service.publish`. The event that was
    passed stays as it is. Both are equal, since metadata does not count in a comparison.
    """
    own_id = id if id is not None else str(uuid4())
    extensions = joined({}, checked_meta(meta))
    when = time or datetime.now(UTC)
    envelope = event.sealed(id=own_id, source=source, subject=subject, cause=None, time=when, extensions=extensions)
    story = correlation_id if correlation_id is not None else own_id
    copy = event.model_copy()
    copy._meta = replace(envelope, correlation_id=story, causation_id=causation_id)
    return copy
