"""A context for a handler that a test calls as a function."""

from datetime import UTC, datetime
from uuid import uuid4

from choreo.declare.context import Context
from choreo.errors import NotAnnouncedError
from choreo.events.envelope import Envelope
from choreo.events.event import Event


def context(
    subject: str | None = None,
    *,
    handler: str = "service.handler",
    event: Event | Envelope | None = None,
    attempt: int = 1,
    attempts: int = 6,
    idempotency_key: str | None = None,
) -> Context:
    """
    The context of one delivery, for calling a handler that takes a `Context`. Nothing is sent.

        >>> charge_customer(OrderPlaced(customer_id="alice"), context(subject="ORD-1", attempt=2))

    ``subject`` is what the work is about; None is the subject of ``event``, or "ORD-1". ``handler`` is the full name of
    the handler. ``event`` is the event in hand; None is one that a test has made up. ``attempt`` counts from 1, and
    ``attempts`` is how many there are at most. ``idempotency_key`` is by default the one that this handler would have
    for this event: two contexts with the same handler and the same event, or with the same key, are the same work.
    """
    envelope = _envelope(event, subject)
    return Context(
        service=handler.partition(".")[0],
        handler=handler,
        envelope=envelope,
        attempt=attempt,
        attempts=attempts,
        idempotency_key=f"{handler}/{envelope.identity}" if idempotency_key is None else idempotency_key,
        about=subject,
        events=(envelope,),
    )


def _envelope(event: Event | Envelope | None, subject: str | None) -> Envelope:
    if isinstance(event, Envelope):
        return event
    own_id, now, about = str(uuid4()), datetime.now(UTC), "ORD-1" if subject is None else subject
    if event is None:
        return Envelope(own_id, "test.begun", "test", about, now, correlation_id=own_id)
    try:
        return event.meta
    except NotAnnouncedError:
        return event.sealed(id=own_id, source="test", subject=about, cause=None, time=now)
