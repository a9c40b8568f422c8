"""Operations on dead letters: find, replay, discard."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from choreo.declare.join import count_in
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.signals import SIGNALS
from choreo.errors import DeadLetterError, EnvelopeError
from choreo.events.message import Message
from choreo.store.parts import key_of, name_of, packed
from choreo.store.port import Store
from choreo.store.schedule import Scheduled


class DeadLetters:
    """
    The dead letters of every handler that uses one store. Every method raises `StoreError`.

    ``queue_of`` returns the name of a handler's queue, to which a replay is sent.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store = store
        self._queue_of = queue_of

    @property
    def handlers(self) -> list[str]:
        """
        Every handler that was ever started with this store, and so may have dead letters.

        Also the name of each service, for its ordinary tasks, and ``<service>.dead_letters``, for its notices.
        """
        return self._store.handlers()

    def __iter__(self) -> Iterator[DeadLetter]:
        """All dead letters, oldest first."""
        return iter(self.find())

    def find(self, *owners: str) -> list[DeadLetter]:
        """
        Dead letters, oldest first: all of them, or those of these services and handlers.

        ``find("payment", "driver.assign_driver")``. A name that the store does not know finds nothing.
        """
        letters = [
            DeadLetter.from_json(text) for handler in self._handlers(owners) for text in self._store.letters(handler)
        ]
        return sorted(letters, key=lambda letter: letter.failed_at)

    def get(self, letter_id: str) -> DeadLetter:
        """One dead letter. Raises `DeadLetterError` if there is none with this id."""
        for handler in self._handlers(()):
            text = self._store.letter(handler, letter_id)
            if text is not None:
                return DeadLetter.from_json(text)
        raise DeadLetterError(f"There is no dead letter {letter_id!r}. `choreo dead-letters list` shows all of them.")

    def replay(self, letter_id: str) -> DeadLetter:
        """
        Send the event once more to the handler that failed, and to no other handler. This removes the letter.

        The handler runs when a worker of its service takes the event, and has all its attempts again. The event, the
        idempotency key and the announced events keep their ids, so effects of an earlier attempt are recognised. If the
        handler fails again, that makes a new dead letter.
        Raises `DeadLetterError` if there is no such letter, or another caller has just replayed or discarded it.
        """
        letter = self.get(letter_id)
        queue = self._queue_of(letter.handler)
        parts = self._parts_of(letter)
        if parts and _is_signal(letter):
            message = replace(letter.message, headers=letter.message.headers | {"retries": 0})
        elif letter.envelopes:
            message = Message.carrying(letter.envelopes[0], exchange="", routing_key=queue)
        else:
            message = letter.message
        scheduled = Scheduled(f"replay:{letter.id}", message)
        if not self._store.replay(letter.handler, letter.id, letter.unit, parts, scheduled):
            raise DeadLetterError(f"Dead letter {letter_id!r} has just been replayed or discarded by another caller.")
        return letter

    def discard(self, letter_id: str) -> DeadLetter:
        """Remove a dead letter for good, and return it. Raises `DeadLetterError` if there is none with this id."""
        letter = self.get(letter_id)
        self._store.discard(letter.handler, letter_id)
        return letter

    def _parts_of(self, letter: DeadLetter) -> dict[str, str]:
        """The parts of a join as the store keeps them, by name; empty if the letter is not a join's."""
        if letter.unit is None or key_of(letter.unit) is None:
            return {}
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
    """True if a replay sends a signal: a join has failed in its ``on_timeout``, or after it was fired by hand."""
    # Without an on_timeout nothing can run at the deadline. The parts are replayed, and the join waits once more.
    return letter.reason is not Reason.EXPIRED and letter.message.headers.get("argsrepr", "").startswith(SIGNALS)
