"""Operations on dead letters: find, replay, discard."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.signals import SIGNALS
from choreo.errors import DeadLetterError, EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.lineage import lineage_of
from choreo.events.message import Message, parsed
from choreo.store.parts import key_of, name_of, packed
from choreo.store.port import Store
from choreo.store.schedule import Scheduled


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
        letters = [
            DeadLetter.from_json(text) for handler in self._handlers(owners) for text in self._store.letters(handler)
        ]
        return sorted(letters, key=lambda letter: letter.failed_at)

    def get(self, letter_id: str) -> DeadLetter:
        """Return the dead letter with this id. Raises `DeadLetterError` when there is none."""
        for handler in self._handlers(()):
            text = self._store.letter(handler, letter_id)
            if text is not None:
                return DeadLetter.from_json(text)
        raise DeadLetterError(f"There is no dead letter {letter_id!r}. `choreo dead-letters list` shows all of them.")

    def replay(self, letter_id: str) -> DeadLetter:
        """
        Schedule the event for the handler that failed, and for no other handler. Removes the dead letter.

        The handler runs when a worker of the service takes the event. It has all its attempts again, and the same
        idempotency key and event ids, so other systems recognise earlier effects. The task id is a new one, so that a
        revoked event runs as well. If it fails again, a new dead letter is made.
        Raises `DeadLetterError` when there is no dead letter with this id, or it was just replayed or discarded by
        another process.
        """
        letter = self.get(letter_id)
        queue = self._queue_of(letter.handler)
        again = replace(letter, envelopes=tuple(envelope.replayed(letter.id) for envelope in letter.envelopes))
        parts, lineage = self._parts_of(again), lineage_of(letter.message.headers)
        if parts and _is_signal(letter):
            signal = Envelope.from_wire(parsed(letter.message.body)[0][0]).replayed(letter.id)
            message = Message.carrying(signal, exchange="", routing_key=queue, lineage=lineage)
        elif letter.envelopes:
            message = Message.carrying(again.envelopes[0], exchange="", routing_key=queue, lineage=lineage)
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


def _is_signal(letter: DeadLetter) -> bool:
    """True if the failed delivery was a signal (a fired join, or its on_timeout). A replay then repeats the signal."""
    # Without an on_timeout there is nothing to run. The replayed join waits again for the missing parts.
    return letter.reason is not Reason.EXPIRED and letter.message.headers.get("argsrepr", "").startswith(SIGNALS)
