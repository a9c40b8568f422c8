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
from choreo.errors import EnvelopeError, UnansweredError
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.events.message import Message, task_headers
from choreo.store.claims import Claim, Settlement, Verdict
from choreo.store.parts import unit_of
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)

#: The function above which `@app.dead_letter` stands.
Listener = Callable[[DeadLetter], Any]


def log_dead_letter(letter: DeadLetter) -> None:
    """The listener of a service that declares none: one line in the log."""
    logger.error(
        "dead letter %s: %s could not handle %s (%s: %s). `choreo dead-letters show %s` tells more.",
        letter.id,
        letter.handler,
        letter,
        letter.reason,
        letter.error,
        letter.id,
    )


def notices_of(service: str) -> str:
    """The name of the task, and of the queue, in which a service gets its notices."""
    return f"{service}.dead_letters"


def notice(letter: DeadLetter, ports: Ports) -> Message:
    """The task message that tells a service of a dead letter."""
    task = notices_of(ports.service_name)
    first = letter.envelopes[0] if letter.envelopes else None
    headers = task_headers(
        task,
        str(uuid4()),
        # In Flower the row hangs on the run that failed, and belongs to the same story.
        root_id=first.correlation_id if first else None,
        parent_id=task_id(first.id, letter.handler) if first else None,
        argsrepr=f"{letter.handler}: {letter}",
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
    Keep a delivery that cannot be handled as a dead letter, and tell the service. Raises `StoreError`.

    ``join`` is the handler's declaration, if it is one.
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
        unit = _unit_of(join, error.envelope)
        letter = replace(letter, reason=Reason.POISON, envelopes=(error.envelope,), unit=unit)
    scheduled = Scheduled(f"notice:{letter.id}", notice(letter, ports))
    ports.store.bury(handler, letter.id, letter.to_json(), [scheduled])


class NoticeDelivery:
    """
    One notice in the hands of one worker.

    The letter is in the store before, and stays there after. The listener is called once, and an error of it is logged.
    A listener that ends its worker is called again, `Terms.max_deliveries` times at most.
    """

    def __init__(self, ports: Ports, listener: Listener, letter: DeadLetter) -> None:
        self._ports, self._listener, self._letter = ports, listener, letter
        self._claim = Claim(notices_of(ports.service_name), f"notice:{letter.id}", uuid4().hex)

    def live(self) -> str:
        """Tell the listener. Returns the outcome in words; raises `StoreError`, or the listener's error."""
        store = self._ports.store
        begun = store.begin(self._claim)
        match begun.verdict:
            case Verdict.RUN:
                return self._call()
            case Verdict.BUSY:
                again = Scheduled(f"busy:{self._claim.token}", notice(self._letter, self._ports), begun.busy_seconds)
                store.schedule(self._claim.handler, again)
                return f"another worker is at it; looking again in {begun.busy_seconds:.1f} s"
            case Verdict.POISON:
                what = describe(self._listener)
                logger.error("%s ended its worker too often: it is not told of %s any more", what, self._letter.id)
        store.commit(self._claim, Settlement())
        return "told before"

    def _call(self) -> str:
        store = self._ports.store
        try:
            with self._ports.leases.kept(self._claim):
                self._listener(self._letter)
        except BaseException as error:  # the letter is kept; the worker must be, too
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
            pass  # the event does not say what it belongs to
    return envelope.id
