"""Notices: the task messages that tell a service of its dead letters."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from choreo.declare.join import Join
from choreo.delivery.alert import alerts_of
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.ending import Ending
from choreo.delivery.failure import MOST_LOGGED, MOST_TEXT, cut, line_of, shown_trace
from choreo.delivery.ports import Ports, Sender
from choreo.delivery.sentry import in_sentry
from choreo.delivery.undeclared import set_aside_for
from choreo.errors import (
    EnvelopeError,
    StoreError,
    UnansweredError,
    UnsendableError,
    UntrustedError,
    VersionError,
)
from choreo.events.envelope import Envelope
from choreo.events.ids import named_id, task_id
from choreo.events.lineage import lineage_of
from choreo.events.message import Message, task_headers
from choreo.masking import without_secrets
from choreo.printing import one_line
from choreo.store.parts import is_demanded, unit_of
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)


def log_dead_letter(letter: DeadLetter, error: Exception | None = None, fields: dict[str, Any] | None = None) -> None:
    """
    Log a dead letter when it is recorded, at level ERROR. The log record has the handler's ``error``.

    The name of the handler is in the format string, not among its arguments: error trackers group messages by format.
    ``fields`` are those of the run: see `choreo.delivery.run_log.fields_of`. The traceback is in the dead letter, and
    in the log at level DEBUG.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return
    handler = one_line(letter.handler).replace("%", "%%")
    what = "could not undo the effect of" if letter.undoes else "could not handle"
    text = f"dead letter %s: {handler} {what} %s ({letter.reason}: %s)."
    hint = f"`choreo dead-letters show {letter.id}` shows all of it."
    details = letter.id, str(letter), cut(one_line(letter.error), MOST_LOGGED)
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, text if error else f"{text} {hint}", details, exc_info
    )
    vars(record).update(_fields_of(letter) | (fields or {}) | {"outcome": "dead letter", "letter": letter.id})
    if error is not None:
        # A formatter prints this in place of the traceback, which the dead letter has.
        record.exc_text = f"{shown_trace(error)}\n{hint}" if logger.isEnabledFor(logging.DEBUG) else hint
    with in_sentry(letter):
        logger.handle(record)


def _fields_of(letter: DeadLetter) -> dict[str, Any]:
    fields = {"service": letter.service, "handler": letter.handler, "attempt": letter.attempts}
    fields |= {"reason": str(letter.reason), "error": one_line(letter.error)}
    for event in letter.envelopes[:1]:
        fields |= {"type": event.type, "subject": event.subject, "event_id": event.id, "story": event.correlation_id}
    return fields


def notices_of(service: str) -> str:
    """The name of the task that receives a service's notices, and of its queue (without the namespace)."""
    return f"{service}.dead_letters"


def notice(letter: DeadLetter, ports: Sender, retries: int = 0) -> Message:
    """The task message that tells a service of a dead letter. ``retries``: how often the listener has failed."""
    task = notices_of(letter.service)
    first = letter.envelopes[0] if letter.envelopes else None
    # In Flower the row is a child of the run that failed.
    failed = task_id(first.occasion, letter.handler) if first else None
    headers = task_headers(
        task,
        named_id(f"notice:{letter.id}"),
        root_id=lineage_of(letter.message.headers).root_id or failed,
        parent_id=failed,
        argsrepr=f"{one_line(letter.handler)}: {letter}",
        origin=letter.service,
        retries=retries,
    )
    return Message("", ports.queue_of(task), json.dumps([[letter.id], {}, {}]).encode(), headers)


def messages_about(
    letter: DeadLetter, ports: Sender, alerts: Mapping[Envelope, Message] | None = None
) -> dict[str, Message]:
    """
    The messages that leave when a dead letter is recorded: its notice, and its alert. Schedule id → message.

    ``alerts`` are those of `alerts_of`; None finds them.
    """
    told = alerts_of(letter, ports) if alerts is None else alerts
    return {f"notice:{letter.id}": notice(letter, ports)} | {f"event:{alert.id}": told[alert] for alert in told}


def park(
    ports: Ports,
    handler: str,
    message: Message,
    error: Exception,
    envelopes: tuple[Envelope, ...] = (),
    join: Join | None = None,
) -> None:
    """
    Record a delivery that cannot be handled as a dead letter, and log it. Raises `StoreError`.

    Its notice and its alert are scheduled in the same step.

    ``error`` is the reason: VERSION after a `VersionError`, POISON after an `UnansweredError`, UNSENT after an
    `UnsendableError`, UNTRUSTED after an `UntrustedError`, else UNREADABLE.
    ``envelopes`` holds the event if it can be read. ``join`` is the handler's declaration if the handler is a join. If
    the store refuses to record it for this handler, it is recorded for the service, and if it refuses that as well,
    under another name of the service: `choreo dead-letters list SERVICE` finds it in each of these places.
    """
    letter = DeadLetter(
        ports.service_name,
        handler,
        Reason.UNREADABLE,
        cut(without_secrets(str(error)), MOST_TEXT),
        message,
        attempts=1,
        envelopes=envelopes,
        failed_at=ports.now(),
    )
    if isinstance(error, VersionError):
        # As a failed attempt tells it, so that the two are of one group.
        letter = replace(letter, reason=Reason.VERSION, error=line_of(error))
    elif isinstance(error, UnansweredError):
        letter = replace(letter, reason=Reason.POISON)
        if error.envelope is not None:
            unit = _unit_of(join, error.envelope)
            how = _with_ending(ports, letter, unit)
            letter = replace(letter, error=how, envelopes=(error.envelope,), unit=unit)
    elif isinstance(error, UntrustedError):
        letter = replace(letter, reason=Reason.UNTRUSTED)
    elif isinstance(error, UnsendableError):
        letter = replace(letter, reason=Reason.UNSENT, attempts=message.retries)
    # The last name is new, so the store cannot have something else under it.
    names = [handler, ports.service_name, notices_of(ports.service_name), set_aside_for(ports.service_name, letter.id)]
    for name in dict.fromkeys(names):
        try:
            _record(ports, replace(letter, handler=name), error)
            break
        except StoreError as refusal:
            if refusal.is_outage or name == names[-1]:
                raise
            # A replay sends the message as it is: the service itself has no event to handle.
            why = f"{letter.error} (kept for the service, since {name} can keep none: {refusal})"
            letter = replace(letter, error=why, envelopes=(), unit=None)


def _record(ports: Ports, letter: DeadLetter, error: Exception) -> None:
    scheduled = [Scheduled(key, message) for key, message in messages_about(letter, ports).items()]
    # It is so already, unless the store has lost its memory. Then nobody would find the letter.
    ports.store.register([letter.handler])
    ports.store.add_letter(letter.handler, letter.id, letter.to_json(), scheduled, letter.card)
    log_dead_letter(letter, error)


def _with_ending(ports: Ports, letter: DeadLetter, unit: str) -> str:
    """The error of a letter, and how the last run of its unit ended, if the store knows."""
    with suppress(StoreError):  # it may refuse this one call; see `park`
        if last := Ending.of(ports.store.last_end(letter.handler, unit)):
            return f"{letter.error}; the last time {last.text}"
    return letter.error


def _unit_of(join: Join | None, envelope: Envelope) -> str:
    if join is not None and not is_demanded(envelope):
        try:
            return unit_of(join.key_of(envelope))
        except EnvelopeError:
            pass  # the event does not tell its join's key
    return envelope.identity
