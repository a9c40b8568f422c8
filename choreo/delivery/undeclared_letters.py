"""Dead letters of messages that wait for a handler that no worker declares any more."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from choreo.declare.retry import MOST_RETRIES
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.notice import log_dead_letter, notice, park
from choreo.delivery.ports import Ports
from choreo.delivery.signals import SIGNALS
from choreo.errors import EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.message import Message, parsed
from choreo.store.claims import Claim, ClaimResult, Outcome, Settlement, Verdict
from choreo.store.parts import CANCELLED, key_of, read_address, unit_of, unpacked
from choreo.store.schedule import Scheduled, deadline_id


def park_undeclared(ports: Ports, handler: str, key: str, message: Message) -> None:
    """
    Make a dead letter of a message that is due, and remove it from the schedule: a retry, or a signal to a join.

    ``key`` is its id in the schedule. The dead letter of a join holds all its parts. An event that is none of them (it
    was held for the next round, say) becomes a dead letter of its own. A story only watches, so it is forgotten without
    a dead letter. The message falls due again if another worker holds the claim. Raises `StoreError`.
    """
    error = f"no worker of {ports.service_name} declares {handler} any more"
    try:
        envelope, unit = _read(message)
    except (EnvelopeError, ValueError, LookupError, TypeError) as fault:
        park(ports, handler, message, EnvelopeError(f"{error}, and its message cannot be read: {fault}"))
        ports.store.sent(handler, [key])
        return
    claim = Claim(handler, unit, uuid4().hex, attempt=0)
    result = ports.store.begin(claim)
    if result.verdict is Verdict.BUSY:
        return
    is_of_join, is_signal = key_of(unit) is not None, envelope.type in SIGNALS
    described = _described(ports, handler) if is_of_join else {}
    if "story" in described:
        _forget(ports, claim, result, key, is_signal)
        return
    has_rounds = bool(described.get("rounds"))
    parts = tuple(unpacked(result.parts))
    is_apart = is_of_join and not is_signal and envelope.identity not in [part.identity for part in parts]
    if result.verdict is Verdict.DONE and not (is_apart and has_rounds):
        ports.store.sent(handler, [key])
    elif is_apart:
        if result.verdict is not Verdict.DONE:
            ports.store.commit(claim, Settlement(done=False))  # the join stays as it is
        _letter_apart(ports, handler, key, _letter(ports, handler, error, message, None, (envelope,)), has_rounds)
    elif parts or not is_signal:
        letter = _letter(ports, handler, error, message, unit, parts or (envelope,))
        took_part = [part.identity for part in parts] if has_rounds else []
        _commit_letter(ports, claim, letter, Settlement(unscheduled=[key, deadline_id(unit)], took_part=took_part))
    else:
        # A signal to a join of which no part is left has no effect.
        ports.store.commit(claim, Settlement(unscheduled=[key, deadline_id(unit)], note=CANCELLED))


def _forget(ports: Ports, claim: Claim, result: ClaimResult, key: str, is_signal: bool) -> None:
    """Forget a story, when a signal to it falls due; and each event that was held back for it."""
    if result.verdict is Verdict.DONE:
        ports.store.sent(claim.handler, [key])
        return
    unscheduled = [key, deadline_id(claim.unit)] if is_signal else [key]
    ports.store.commit(claim, Settlement(done=is_signal, unscheduled=unscheduled, note=CANCELLED))


def _letter_apart(ports: Ports, handler: str, key: str, letter: DeadLetter, has_rounds: bool) -> None:
    """Record the dead letter of an event that is no part of a pending join, unless it took part in a round."""
    once = letter.envelopes[0].identity if has_rounds else ""
    claim = Claim(handler, f"letter:{letter.id}", uuid4().hex, attempt=0, once=once)
    if ports.store.begin(claim).verdict is Verdict.DONE:
        ports.store.sent(handler, [key])
    else:
        _commit_letter(ports, claim, letter, Settlement(done=False, unscheduled=[key]))


def _commit_letter(ports: Ports, claim: Claim, letter: DeadLetter, settlement: Settlement) -> None:
    """Record a dead letter and its notice with this settlement, and log it."""
    settlement.letter = letter.id, letter.to_json()
    settlement.scheduled = [Scheduled(f"notice:{letter.id}", notice(letter, ports))]
    if ports.store.commit(claim, settlement).outcome is Outcome.OK:
        log_dead_letter(letter)


def _letter(
    ports: Ports, handler: str, error: str, message: Message, unit: str | None, envelopes: tuple[Envelope, ...]
) -> DeadLetter:
    said = message.headers.get("retries") or 0
    is_junk = type(said) is not int or not 0 <= said <= MOST_RETRIES
    return DeadLetter(
        service=ports.service_name,
        handler=handler,
        reason=Reason.UNDECLARED,
        error=f"{error}; its header retries is {reprlib.repr(said)}, not a number of attempts" if is_junk else error,
        message=replace(message, headers=message.headers | {"retries": 0}) if is_junk else message,
        attempts=0 if is_junk else said,
        unit=unit,
        envelopes=envelopes,
        failed_at=ports.now(),
    )


def _described(ports: Ports, handler: str) -> Mapping[str, Any]:
    """The declaration of a join or a story, as JSON; empty if it is not known."""
    text = ports.store.joins().get(handler)
    return json.loads(text) if text else {}


def _read(message: Message) -> tuple[Envelope, str]:
    """The event in a task message, and the unit of the handler that it belongs to."""
    envelope, key = read_address(Envelope.from_wire(parsed(message.body)[0][0]))
    if envelope.type in SIGNALS:
        key = envelope.subject
    return envelope, envelope.identity if key is None else unit_of(key)
