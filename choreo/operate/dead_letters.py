"""Operations on dead letters: find, replay, discard."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.failure import line_of
from choreo.delivery.signals import SIGNALS
from choreo.errors import DeadLetterError, EnvelopeError
from choreo.events.lineage import lineage_of
from choreo.events.message import Message
from choreo.store.parts import key_of, name_of, packed
from choreo.store.port import Store
from choreo.store.schedule import Scheduled

#: The content type of the message in a dead letter that this version of choreo cannot read. Its body is the letter.
UNKNOWN = "application/x-choreo-dead-letter"


class DeadLetters:
    """
    The dead letters of every handler that uses one store. Its methods raise `StoreError` when the store is away.

    ``queue_of`` is a callback: it returns the name of a handler's queue, to which a replay is sent.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store = store
        self._queue_of = queue_of

    @property
    def handlers(self) -> list[str]:
        """Every handler whose service has ever started a worker, and each service, for its other queues. Sorted."""
        return self._store.handlers()

    def __iter__(self) -> Iterator[DeadLetter]:
        """Iterate over all dead letters, oldest first."""
        return iter(self.find())

    def find(self, *owners: str) -> list[DeadLetter]:
        """Return dead letters, oldest first: all of them, or those of these services (``payment``) and handlers."""
        letters = [read(handler, text) for handler in self._handlers(owners) for text in self._store.letters(handler)]
        return sorted(letters, key=lambda letter: letter.failed_at)

    def get(self, letter_id: str) -> DeadLetter:
        """Return the dead letter with this id. Raises `DeadLetterError` when there is none."""
        for handler in self._handlers(()):
            text = self._store.letter(handler, letter_id)
            if text is not None:
                return read(handler, text)
        raise DeadLetterError(f"There is no dead letter {letter_id!r}. `choreo dead-letters list` shows all of them.")

    def replay(self, letter_id: str) -> DeadLetter:
        """
        Schedule the event for the handler that failed, and for no other handler. Removes the dead letter.

        The handler runs when a worker of the service takes the event. It has all its attempts again, and the same
        idempotency key and event ids, so other systems recognise earlier effects. If it fails again, a new dead letter
        is made. Raises `DeadLetterError` when there is no dead letter with this id, or it was just replayed or
        discarded by another process.
        """
        letter = self.get(letter_id)
        if letter.message.content_type == UNKNOWN:
            raise DeadLetterError(
                f"Dead letter {letter_id!r} cannot be replayed by this version of choreo: {letter.error}. The version "
                f"that wrote it can. `choreo dead-letters show {letter_id}` shows all of it."
            )
        queue = self._queue_of(letter.handler)
        parts = self._parts_of(letter)
        if parts and _is_signal(letter):
            message = replace(letter.message, headers=letter.message.headers | {"retries": 0})
        elif letter.envelopes:
            lineage = lineage_of(letter.message.headers)
            message = Message.carrying(letter.envelopes[0], exchange="", routing_key=queue, lineage=lineage)
        else:
            message = letter.message
        scheduled = Scheduled(f"replay:{letter.id}", message)
        if not self._store.replay(letter.handler, letter.id, letter.unit, parts, scheduled):
            raise DeadLetterError(f"Dead letter {letter_id!r} has just been replayed or discarded by another process.")
        return letter

    def discard(self, letter_id: str) -> DeadLetter:
        """Delete a dead letter, and return it. Raises `DeadLetterError` when there is none with this id."""
        letter = self.get(letter_id)
        self._store.discard(letter.handler, letter_id)
        return letter

    def _parts_of(self, letter: DeadLetter) -> dict[str, str]:
        """Return the parts of a join as the store keeps them; empty if the letter is not of a join."""
        if letter.unit is None or key_of(letter.unit) is None:
            return {}
        from choreo.declare.join import count_in

        several: dict[str, dict[str, Any]] = {}
        if description := self._store.joins().get(letter.handler):
            several = json.loads(description)["several"]
        parts = {name_of(envelope, several): packed(envelope) for envelope in letter.envelopes}
        for part, asked in several.items():
            for envelope in letter.envelopes:
                if envelope.type == asked.get("of"):
                    with suppress(EnvelopeError):
                        parts[f"?{part}"] = str(count_in(envelope, asked["per"], part))
        return parts

    def _handlers(self, owners: Iterable[str]) -> list[str]:
        known = self._store.handlers()
        if not owners:
            return known
        return [handler for handler in known if handler in owners or handler.rpartition(".")[0] in owners]


def read(handler: str, text: str) -> DeadLetter:
    """A dead letter from the store. One that another version wrote in another form is shown, and hides no other."""
    try:
        return DeadLetter.from_json(text)
    except Exception as error:  # it may be of any form
        letter_id = ""
        with suppress(Exception):
            letter_id = str(json.loads(text)["id"])
        fault = f"this version cannot read it ({line_of(error)})"
        raw = text.encode(errors="surrogatepass")
        message = Message("", "", raw, content_type=UNKNOWN)
        service = handler.partition(".")[0]
        return DeadLetter(
            service, handler, Reason.UNREADABLE, fault, message, id=letter_id, failed_at=datetime.fromtimestamp(0, UTC)
        )


def _is_signal(letter: DeadLetter) -> bool:
    """True if the failed delivery was a signal (a fired join, or its on_timeout). A replay then repeats the signal."""
    # Without an on_timeout there is nothing to run. The replayed join waits again for the missing parts.
    return letter.reason is not Reason.EXPIRED and letter.message.headers.get("argsrepr", "").startswith(SIGNALS)
