"""
Alerts: the events that tell of a dead letter, or of a handler that was paused or resumed.

An alert leaves with the store's record of what it tells of, so it is announced exactly as often as that happened.

*No loop.* Handlers of alerts fail like others. A dead letter has no alert if its event is an alert itself. It has none
either if an earlier dead letter of the same handler led to its event: over an alert, its handlers, and the events that
these announced, in whatever services. For that, an alert names its handler and those before it in the attribute
`ALERTED`, which events inherit.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from choreo.declare.join import age
from choreo.delivery.dead_letter import DeadLetter
from choreo.delivery.ports import Ports, Sender
from choreo.delivery.undeclared import service_of
from choreo.errors import ChoreoError
from choreo.events.alerts import Alert, DeadLetterRecorded, HandlerPaused, HandlerResumed
from choreo.events.envelope import Envelope
from choreo.events.ids import named_id
from choreo.events.message import Message
from choreo.events.metadata import ALERTED, LONGEST_VALUE, inherited
from choreo.events.naming import OWN_TYPES
from choreo.printing import one_line
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)


def alerts_of(letter: DeadLetter, ports: Sender) -> dict[Envelope, Message]:
    """
    The alert of a dead letter and its message, or nothing: see above.

    Nothing, too, and a line in the log, if the event that failed has a subject or metadata that cannot be sent.
    """
    led_here = _handlers_before(letter.envelopes)
    chain = " ".join([*led_here, letter.handler])
    if letter.handler in led_here or len(chain) > LONGEST_VALUE or any(map(is_alert, letter.envelopes)):
        return {}
    alert = _sealed(letter, letter.service, chain)
    try:
        return {alert: ports.publisher.message_for(alert)}
    except ChoreoError as error:
        logger.error("dead letter %s is recorded, and its alert cannot be announced: %s", letter.id, error)
        return {}


def is_alert(event: Envelope) -> bool:
    """True for an event that choreo itself announced."""
    return event.type in OWN_TYPES


def story_of(letter: DeadLetter) -> Envelope:
    """The event of a letter, or of a join the part that was announced last. If it has none, a stand-in for it."""
    stand_in = Envelope(letter.id, "choreo.dead_letter", letter.service, "", letter.failed_at, letter.id)
    return max(letter.envelopes, key=age, default=stand_in)


def paused(
    ports: Ports,
    handler: str,
    pause: str,
    *,
    reason: str = "",
    by: str = "",
    until: datetime | None = None,
    rate: float | None = None,
    event: Envelope | None = None,
) -> list[Scheduled]:
    """
    The alert that a handler was paused, for the step of the store that records it.

    ``pause`` is the id of this pause; the other fields are those of `HandlerPaused`. ``event`` is the one whose failure
    paused the handler; None if no event did. The list is empty if that event is an alert.
    """
    alert = HandlerPaused(handler=handler, reason=reason, by=by, until=until, rate=rate)
    return _scheduled(ports, alert, f"paused:{pause}", handler, event)


def resumed(
    ports: Ports,
    handler: str,
    pause: str,
    *,
    reason: str = "",
    by: str = "",
    delay: float = 0.0,
    event: Envelope | None = None,
) -> list[Scheduled]:
    """
    The alert that a handler goes on, now or after ``delay`` seconds. It always has the same id in the schedule.

    ``pause`` is the id of the pause that ends. ``event`` is the one whose success ended it, if one did. The list is
    empty if that event is an alert.
    """
    alert = HandlerResumed(handler=handler, reason=reason, by=by)
    return _scheduled(ports, alert, f"resumed:{pause}", handler, event, delay)


def _scheduled(
    ports: Ports, alert: Alert, name: str, handler: str, event: Envelope | None, delay: float = 0.0
) -> list[Scheduled]:
    if event is not None and is_alert(event):
        return []
    sealed = alert.sealed(
        id=named_id(f"alert:{name}"),
        source=service_of(handler),
        subject=handler,
        cause=None,
        time=ports.now() + timedelta(seconds=delay),
    )
    return [Scheduled(f"event:{sealed.id}", ports.publisher.message_for(sealed), delay)]


def _sealed(letter: DeadLetter, service: str, chain: str) -> Envelope:
    cause = story_of(letter)
    event = DeadLetterRecorded(
        letter=letter.id,
        handler=letter.handler,
        reason=letter.reason,
        error=one_line(letter.error),
        attempts=letter.attempts,
        events=list(dict.fromkeys(one.type for one in letter.envelopes)),
        group=letter.group,
        undoes=letter.undoes,
    )
    handed: dict[str, Any] = inherited([one.extensions for one in letter.envelopes], cause.extensions)
    sealed = event.sealed(
        id=named_id(f"alert:{letter.id}"),
        source=service,
        subject=letter.subject,
        cause=cause,
        time=letter.failed_at,
        extensions=handed | {ALERTED: chain},
    )
    # A loop that ends as a dead letter must not end what is done about it. The chain ends loops over alerts.
    return replace(sealed, hops=0)


def _handlers_before(events: Iterable[Envelope]) -> list[str]:
    """The handlers whose dead letters led to these events, over alerts."""
    chains = (one.extensions.get(ALERTED, "") for one in events if one.extensions)
    return list(dict.fromkeys(name for chain in chains if isinstance(chain, str) for name in chain.split()))
