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
    The dead letters of every handler that uses one store.

    ``queue_of`` gives the name of a handler's queue, to which a replay goes.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store = store
        self._queue_of = queue_of

    @property
    def handlers(self) -> list[str]:
        """Every handler that has run, or may still have dead letters; and each service, for its other queues."""
        return self._store.handlers()

    def __iter__(self) -> Iterator[DeadLetter]:
        """All dead letters, oldest first."""
        return iter(self.find())

    def find(self, *owners: str) -> list[DeadLetter]:
        """Dead letters, oldest first: all of them, or those of these services (``payment``) and handlers."""
        letters = [
            DeadLetter.from_json(text) for handler in self._handlers(owners) for text in self._store.letters(handler)
        ]
        return sorted(letters, key=lambda letter: letter.failed_at)

    def get(self, letter_id: str) -> DeadLetter:
        """One dead letter. Raises `DeadLetterError` when there is none with this id."""
        for handler in self._handlers(()):
            text = self._store.letter(handler, letter_id)
            if text is not None:
                return DeadLetter.from_json(text)
        raise DeadLetterError(
            f"There is no dead letter {letter_id!r}. `choreo dead-letters list` shows which there are."
        )

    def replay(self, letter_id: str) -> DeadLetter:
        """
        Hand the event once more to the handler that failed, and to nobody else. The letter is gone then.

        It runs when a worker of the service takes it, with all its attempts before it again, and the same ids: what
        was announced or charged before is recognised. When it fails again, it is a new dead letter.
        Raises `DeadLetterError` when there is no such letter, or somebody else was faster.
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
            raise DeadLetterError(f"Dead letter {letter_id!r} has just been replayed or discarded by somebody else.")
        return letter

    def discard(self, letter_id: str) -> DeadLetter:
        """Forget a dead letter for good. Raises `DeadLetterError` when there is none with this id."""
        letter = self.get(letter_id)
        self._store.discard(letter.handler, letter_id)
        return letter

    def _parts_of(self, letter: DeadLetter) -> dict[str, str]:
        """The parts of a join as the store keeps them."""
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
    """Whether a join failed that had been fired by hand, or in its on_timeout: that is what runs again."""
    # Without an on_timeout there is nothing to run. It waits once more, for the part that was late.
    return letter.reason is not Reason.EXPIRED and letter.message.headers.get("argsrepr", "").startswith(SIGNALS)
