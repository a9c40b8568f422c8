"""The burial of messages that wait for a handler that no worker declares any more."""

from uuid import uuid4

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.notice import log_dead_letter, notice, park
from choreo.delivery.ports import Ports
from choreo.delivery.signals import SIGNALS
from choreo.errors import EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.message import Message, parsed
from choreo.store.claims import Claim, Outcome, Settlement, Verdict
from choreo.store.parts import CANCELLED, read_address, unit_of, unpacked
from choreo.store.schedule import Scheduled, deadline_id


def park_undeclared(ports: Ports, handler: str, key: str, message: Message) -> None:
    """
    Make a dead letter of a message that is due, and remove it from the schedule: a retry, or a signal to a join.

    ``key`` is its id in the schedule. The dead letter of a join holds all its parts. While another worker holds the
    claim, nothing happens, and the message falls due again. Raises `StoreError`.
    """
    error = f"no worker of {ports.service_name} declares {handler} any more"
    try:
        envelope, unit = _read(message)
    except (EnvelopeError, ValueError, LookupError, TypeError) as fault:
        park(ports, handler, message, EnvelopeError(f"{error}, and its message cannot be read: {fault}"))
        ports.store.sent(handler, [key])
        return
    claim = Claim(handler, unit, uuid4().hex, attempt=0)
    begun = ports.store.begin(claim)
    if begun.verdict is Verdict.BUSY:
        return
    unwanted = [key, deadline_id(unit)]
    # A signal to a join of which no part is left has no effect.
    envelopes = tuple(unpacked(begun.parts)) or (() if envelope.type in SIGNALS else (envelope,))
    if begun.verdict is Verdict.DONE:
        ports.store.sent(handler, [key])
        return
    if not envelopes:
        ports.store.commit(claim, Settlement(unscheduled=unwanted, note=CANCELLED))
        return
    retries = int(message.headers.get("retries") or 0)
    letter = DeadLetter(
        service=ports.service_name,
        handler=handler,
        reason=Reason.UNDECLARED,
        error=error,
        message=message,
        attempts=retries,
        unit=unit,
        envelopes=envelopes,
        failed_at=ports.now(),
    )
    tell = Scheduled(f"notice:{letter.id}", notice(letter, ports))
    settlement = Settlement(letter=(letter.id, letter.to_json()), scheduled=[tell], unscheduled=unwanted)
    if ports.store.commit(claim, settlement).outcome is Outcome.OK:
        log_dead_letter(letter)


def _read(message: Message) -> tuple[Envelope, str]:
    """The event in a task message, and the unit of the handler that it belongs to."""
    envelope, key = read_address(Envelope.from_wire(parsed(message.body)[0][0]))
    if envelope.type in SIGNALS:
        key = envelope.subject
    return envelope, envelope.identity if key is None else unit_of(key)
