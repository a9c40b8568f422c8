"""Notices: the task messages that tell a service of its dead letters."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from choreo.declare.join import Join
from choreo.declare.reaction import describe
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.failure import harmless, is_stop
from choreo.delivery.ports import Ports
from choreo.errors import EnvelopeError, StoreError, UnansweredError
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.events.lineage import lineage_of
from choreo.events.message import Message, task_headers
from choreo.printing import one_line
from choreo.store.claims import Claim, Settlement, Verdict
from choreo.store.parts import unit_of
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)

#: The function declared with `@app.dead_letter`. Callback: gets each dead letter of the service; its result is ignored.
Listener = Callable[[DeadLetter], Any]


def log_dead_letter(letter: DeadLetter) -> None:
    """The listener of a service that declares none: one line in the log."""
    logger.error(
        "dead letter %s: %s could not handle %s (%s: %s). `choreo dead-letters show %s` shows all of it.",
        letter.id,
        one_line(letter.handler),
        letter,
        letter.reason,
        one_line(letter.error),
        letter.id,
    )


def notices_of(service: str) -> str:
    """The name of the task that receives a service's notices, and of its queue (without the namespace)."""
    return f"{service}.dead_letters"


def notice(letter: DeadLetter, ports: Ports) -> Message:
    """The task message that tells a service of a dead letter."""
    task = notices_of(ports.service_name)
    first = letter.envelopes[0] if letter.envelopes else None
    # In Flower the row is a child of the run that failed.
    failed = task_id(first.identity, letter.handler) if first else None
    headers = task_headers(
        task,
        str(uuid4()),
        root_id=lineage_of(letter.message.headers).root_id or failed,
        parent_id=failed,
        argsrepr=f"{one_line(letter.handler)}: {letter}",
        origin=ports.service_name,
    )
    return Message("", ports.queue_of(task), json.dumps([[letter.id], {}, {}]).encode(), headers)


def park(
    ports: Ports,
    handler: str,
    message: Message,
    error: Exception,
    envelopes: tuple[Envelope, ...] = (),
    join: Join | None = None,
) -> None:
    """
    Record a delivery that cannot be handled as a dead letter, and schedule its notice. Raises `StoreError`.

    ``error`` is the reason; after an `UnansweredError` it is POISON, else UNREADABLE. ``envelopes`` holds the event if
    it can be read. ``join`` is the handler's declaration if the handler is a join. If the store refuses to record it
    for this handler, it is recorded for the service, under which ``choreo dead-letters`` finds it as well.
    """
    letter = DeadLetter(
        ports.service_name,
        handler,
        Reason.UNREADABLE,
        str(error),
        message,
        attempts=1,
        envelopes=envelopes,
        failed_at=ports.now(),
    )
    if isinstance(error, UnansweredError):
        letter = replace(letter, reason=Reason.POISON)
        if error.envelope is not None:
            letter = replace(letter, envelopes=(error.envelope,), unit=_unit_of(join, error.envelope))
    try:
        _bury(ports, letter)
    except StoreError as refusal:
        if refusal.is_outage or handler == ports.service_name:
            raise
        # A replay sends the message as it is: the service itself has no event to handle.
        why = f"{letter.error} (kept for the service, since {handler} can keep none: {refusal})"
        _bury(ports, replace(letter, handler=ports.service_name, error=why, envelopes=(), unit=None))


def _bury(ports: Ports, letter: DeadLetter) -> None:
    scheduled = Scheduled(f"notice:{letter.id}", notice(letter, ports))
    # It is so already, unless the store has lost its memory. Then nobody would find the letter.
    ports.store.register([letter.handler])
    ports.store.bury(letter.handler, letter.id, letter.to_json(), [scheduled])


class NoticeDelivery:
    """
    One notice, delivered to one worker: it calls the listener with the dead letter.

    The letter stays in the store. The listener is called once; if it raises, it is not called again. If it ends its
    worker, it is called again, `Terms.max_deliveries` times in all.
    """

    def __init__(self, ports: Ports, listener: Listener, letter: DeadLetter) -> None:
        self._ports, self._listener, self._letter = ports, listener, letter
        self._claim = Claim(notices_of(ports.service_name), f"notice:{letter.id}", uuid4().hex)

    def live(self) -> str:
        """
        Call the listener, unless it was called before. Returns the outcome in words.

        Raises the listener's error, which Celery logs, and `StoreError`, after which the notice must come again.
        """
        store = self._ports.store
        begun = store.begin(self._claim)
        match begun.verdict:
            case Verdict.RUN:
                return self._call()
            case Verdict.BUSY:
                again = Scheduled(f"busy:{self._claim.token}", notice(self._letter, self._ports), begun.busy_seconds)
                store.schedule(self._claim.handler, again)
                return f"another worker runs it; it is tried again in {begun.busy_seconds:.1f} s"
            case Verdict.POISON:
                what = describe(self._listener)
                logger.error("%s ended its worker too often: it is not called again with %s", what, self._letter.id)
        store.commit(self._claim, Settlement())
        return "told before"

    def _call(self) -> str:
        store = self._ports.store
        try:
            with self._ports.leases.kept(self._claim):
                self._listener(self._letter)
        except BaseException as error:  # an error of the listener must not end the worker
            if is_stop(error):
                raise
            store.commit(self._claim, Settlement())
            raise harmless(error) from None
        store.commit(self._claim, Settlement())
        return str(self._letter)


def _unit_of(join: Join | None, envelope: Envelope) -> str:
    if join is not None:
        try:
            return unit_of(join.key_of(envelope))
        except EnvelopeError:
            pass  # the event does not tell its join's key
    return envelope.identity
