"""Dead letters of messages that wait for a handler that no worker declares any more."""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from choreo.declare.retry import MOST_RETRIES
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.notice import log_dead_letter, messages_about, park
from choreo.delivery.ports import Ports
from choreo.delivery.signals import SIGNALS
from choreo.errors import EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.message import Message, parsed
from choreo.store.claims import Claim, ClaimResult, Outcome, Settlement, Verdict
from choreo.store.parts import CANCELLED, key_of, read_address, unit_of, unpacked
from choreo.store.schedule import Scheduled, deadline_id

#: Callback: settles a claim with a dead letter, or with what takes its place. It must commit the claim.
Keep = Callable[[Ports, Claim, DeadLetter, Settlement], None]


def park_undeclared(
    ports: Ports,
    handler: str,
    key: str,
    message: Message,
    *,
    error: str = "",
    keep: Keep | None = None,
    is_due: bool = True,
) -> bool:
    """
    Make a dead letter of a message that is due, and remove it from the schedule: a retry, or a signal to a join.

    ``key`` is its id in the schedule; "" for a message that was taken from the handler's queue. ``error`` is that of
    the letter. ``keep`` does something else with the letter than to record it. The dead letter of a join holds all its
    parts. An event that is none of them (it was held for the next round, say) becomes a dead letter of its own. A story
    only watches, so it is forgotten without a dead letter. So is an undo at its deadline; before that (``is_due`` is
    False), a failure may still come, and it has a dead letter. Returns False if another worker holds the claim: the
    message falls due again. After a crash, calling again repeats nothing that was committed. Raises `StoreError`.
    """
    error = error or f"no worker of {ports.service_name} declares {handler} any more"
    keep, keys = keep or _commit_letter, [key] if key else []
    try:
        envelope, unit = _read(message)
    except (ValueError, LookupError, TypeError, RecursionError) as fault:
        park(ports, handler, message, EnvelopeError(f"{error}, and its message cannot be read: {fault}"))
        ports.store.sent(handler, keys)
        return True
    claim = Claim(handler, unit, uuid4().hex, attempt=0)
    result = ports.store.begin(claim)
    if result.verdict is Verdict.BUSY:
        return False
    is_of_join, is_signal = key_of(unit) is not None, envelope.type in SIGNALS
    described = _described(ports, handler) if is_of_join else {}
    if "story" in described or ("undo" in described and is_signal and is_due):
        _forget(ports, claim, result, keys, is_signal)
        return True
    has_rounds = bool(described.get("rounds"))
    parts = tuple(unpacked(result.parts))
    is_apart = is_of_join and not is_signal and envelope.identity not in [part.identity for part in parts]
    is_done = result.verdict is Verdict.DONE
    if is_apart and (has_rounds or not is_done):
        if not is_done:
            ports.store.commit(claim, Settlement(done=False))  # the join stays as it is
        letter = _letter(ports, handler, error, message, None, (envelope,))
        return _letter_apart(ports, keys, letter, has_rounds, keep)
    if is_done:
        ports.store.sent(handler, keys)
        return True
    # A signal to a join of which no part is left has no effect.
    held = parts or (() if is_signal else (envelope,))
    whole = _letter(ports, handler, error, message, unit, held) if held else None
    _settle(ports, claim, keys, whole, [part.identity for part in parts] if has_rounds else [], keep)
    return True


def _settle(
    ports: Ports, claim: Claim, keys: Sequence[str], letter: DeadLetter | None, took_part: Sequence[str], keep: Keep
) -> None:
    """End a whole unit, with a letter if anything was held for it."""
    unscheduled = [*keys, deadline_id(claim.unit)]
    if letter is None:
        ports.store.commit(claim, Settlement(unscheduled=unscheduled, note=CANCELLED))
    else:
        keep(ports, claim, letter, Settlement(unscheduled=unscheduled, took_part=took_part))


def _forget(ports: Ports, claim: Claim, result: ClaimResult, keys: Sequence[str], is_signal: bool) -> None:
    """Forget a story or an undo, when a signal to it falls due; and each event that was held back for a story."""
    if result.verdict is Verdict.DONE:
        ports.store.sent(claim.handler, keys)
        return
    unscheduled = [*keys, deadline_id(claim.unit)] if is_signal else keys
    ports.store.commit(claim, Settlement(done=is_signal, unscheduled=unscheduled, note=CANCELLED))


def _letter_apart(ports: Ports, keys: Sequence[str], letter: DeadLetter, has_rounds: bool, keep: Keep) -> bool:
    """Record the dead letter of an event that is no part of a pending join, unless it took part in a round."""
    once = letter.envelopes[0].identity if has_rounds else ""
    claim = Claim(letter.handler, f"letter:{letter.id}", uuid4().hex, attempt=0, once=once)
    if ports.store.begin(claim).verdict is Verdict.DONE:
        ports.store.sent(letter.handler, keys)
    else:
        keep(ports, claim, letter, Settlement(done=False, unscheduled=keys))
    return True


def _commit_letter(ports: Ports, claim: Claim, letter: DeadLetter, settlement: Settlement) -> None:
    """Record a dead letter, its notice and its alert with this settlement, and log it."""
    settlement.letter = letter.id, letter.to_json(), letter.card
    settlement.scheduled = [Scheduled(one, message) for one, message in messages_about(letter, ports).items()]
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
