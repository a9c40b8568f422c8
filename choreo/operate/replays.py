"""Replays: what is sent in place of a dead letter, and to whom."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.signals import SIGNALS
from choreo.errors import DeadLetterError
from choreo.events.envelope import Envelope
from choreo.events.lineage import NO_LINEAGE, lineage_of
from choreo.events.message import EVENT_TASK, Message, parsed
from choreo.operate.cabinet import UNKNOWN
from choreo.operate.parts import parts_of, told_by_code
from choreo.operate.route import Route
from choreo.store.letters import Replay
from choreo.store.parts import addressed, key_of
from choreo.store.port import Store
from choreo.store.schedule import Scheduled


@dataclass
class Outcomes:
    """What became of some letters that were to be replayed."""

    replayed: list[DeadLetter] = field(default_factory=list)
    #: Each letter that was kept, or was gone, and why.
    refused: list[tuple[DeadLetter, DeadLetterError]] = field(default_factory=list)


class Replays:
    """
    Replays the letters of one handler, ``handler``. ``to`` names another handler, which gets their events; None: none.

    It asks once who is there and which joins are declared: make a new one for letters that are replayed later.
    ``queue_of`` is a callback: it returns the name of a handler's queue.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str], handler: str, to: str | None = None) -> None:
        self._store, self._queue_of = store, queue_of
        self._handler, self._to = handler, to or handler
        self._route, self._named = Route(store, queue_of), to
        text = store.joins().get(handler)
        #: The description of a join; empty for another handler.
        self._description: Mapping[str, Any] = json.loads(text) if text else {}

    def send(self, letters: Sequence[DeadLetter]) -> Outcomes:
        """
        Replay these letters: all that go to the handler that failed in one step. Raises `StoreError`.

        A letter is replayed by one caller only, whoever else tries it at the same time.
        """
        outcomes, repeated = Outcomes(), list[tuple[DeadLetter, Replay]]()
        for letter in letters:
            try:
                self.check(letter)
                if self._is_forwarded(letter):
                    self._forward(letter)
                    outcomes.replayed.append(letter)
                else:
                    repeated.append((letter, self._repeat(letter)))
            except DeadLetterError as error:
                outcomes.refused.append((letter, error))
        self._repeat_all(repeated, outcomes)
        return outcomes

    def send_edited(self, letter: DeadLetter, old: Envelope, new: Envelope) -> None:
        """
        Send a new event in place of one of the letter's, and remove the letter, in one step.

        The old event stays settled. A join has its other parts again. Raises `DeadLetterError`, and keeps the letter,
        if it cannot be replayed.
        """
        self.check(letter)
        if self._is_forwarded(letter):
            raise DeadLetterError(f"{letter.handler} is no join any more. Replay dead letter {letter.id!r} as it is.")
        if letter.unit is not None and key_of(letter.unit) is not None:
            events = tuple(new if one is old else one for one in letter.envelopes)
            replay = self._repeat(replace(letter, envelopes=events))
        else:
            queue, lineage = self._queue_of(self._handler), lineage_of(letter.message.headers)
            message = Message.carrying(new, exchange="", routing_key=queue, lineage=lineage)
            replay = Replay(letter.id, Scheduled(f"edit:{letter.id}", message))
        if not self._store.replay_all(self._handler, [replay])[0]:
            raise self._why_not(letter)

    def _repeat_all(self, repeated: Sequence[tuple[DeadLetter, Replay]], outcomes: Outcomes) -> None:
        done = self._store.replay_all(self._handler, [replay for _, replay in repeated]) if repeated else []
        for (letter, _), is_done in zip(repeated, done, strict=True):
            if is_done:
                outcomes.replayed.append(letter)
            else:
                outcomes.refused.append((letter, self._why_not(letter)))

    def check(self, letter: DeadLetter) -> None:
        """Raise `DeadLetterError` if the letter cannot be replayed, as far as that is known before."""
        self._route.check(letter, self._named)
        if letter.message.content_type == UNKNOWN:
            raise DeadLetterError(
                f"Dead letter {letter.id!r} cannot be replayed by this version of choreo: {letter.error}. The version "
                f"that wrote it can. `choreo dead-letters show {letter.id}` shows all of it."
            )

    def _is_forwarded(self, letter: DeadLetter) -> bool:
        is_of_join = letter.unit is not None and key_of(letter.unit) is not None
        return self._to != self._handler or (is_of_join and bool(self._description.get("former")))

    def _repeat(self, letter: DeadLetter) -> Replay:
        """Send the event to the handler that failed, whose unit runs again."""
        letter = _marked(letter)
        queue = self._queue_of(self._handler)
        key = key_of(letter.unit) if letter.unit is not None else None
        carried, lineage = _carried(letter, self._description), lineage_of(letter.message.headers)
        parts = {} if key is None else parts_of(letter.envelopes, self._description)
        if key is not None:
            carried = told_by_code(letter.envelopes, self._description) or carried
        if parts and _is_signal(letter):
            signal = Envelope.from_wire(parsed(letter.message.body)[0][0]).replayed(letter.id)
            message = Message.carrying(signal, exchange="", routing_key=queue, lineage=lineage)
        elif carried is not None:
            sent = carried if key is None else addressed(carried, key)
            # Without a unit nothing was settled by this letter, and the attempts before it still are.
            retries = letter.message.retries if letter.unit is None else 0
            message = Message.carrying(sent, exchange="", routing_key=queue, retries=retries, lineage=lineage)
        else:
            message = letter.message
        return Replay(letter.id, Scheduled(f"replay:{letter.id}", message), letter.unit, parts)

    def _forward(self, letter: DeadLetter) -> None:
        """Send each event of the letter to the other handler, as if it had just been announced."""
        letter = _marked(letter)
        queue = self._queue_of(self._to)
        # The message of a join's letter carries one of its events, and does not tell the lineage of the others.
        lineage = lineage_of(letter.message.headers) if len(letter.envelopes) == 1 else NO_LINEAGE
        messages = [
            Message.carrying(envelope, exchange="", routing_key=queue, lineage=lineage) for envelope in letter.envelopes
        ]
        # First the messages, then the letter: after a crash in between, the events are sent twice at worst, and the
        # inbox of the handler recognises them.
        for number, message in enumerate(messages or [_readdressed(letter, queue)]):
            self._store.schedule(self._to, Scheduled(f"replay:{letter.id}:{number}", message))
        if not self._store.discard(letter.handler, letter.id):
            raise too_late(letter)

    def _why_not(self, letter: DeadLetter) -> DeadLetterError:
        """Why the store has not replayed this letter."""
        key = key_of(letter.unit) if letter.unit is not None else None
        if key is not None and self._store.look(letter.handler, letter.unit or "") is not None:
            return DeadLetterError(
                f"{letter.handler} waits for other events with the key {key!r}. Replay dead letter {letter.id!r} when "
                f"that join is settled: `choreo joins show {key}`."
            )
        return too_late(letter)


def too_late(letter: DeadLetter) -> DeadLetterError:
    """The error for a letter that is gone."""
    return DeadLetterError(f"Dead letter {letter.id!r} has just been replayed or discarded by another process.")


def _marked(letter: DeadLetter) -> DeadLetter:
    """The letter with its events as a replay sends them."""
    return replace(letter, envelopes=tuple(envelope.replayed(letter.id) for envelope in letter.envelopes))


def _carried(letter: DeadLetter, description: Mapping[str, Any]) -> Envelope | None:
    """The event that the replayed message carries; None if the letter has none. For a join, one of its parts."""
    if not description or description.get("former"):
        return letter.envelopes[0] if letter.envelopes else None
    known = [*description["parts"], *description["unless"]]
    heard = [envelope for envelope in letter.envelopes if envelope.type in known]
    if letter.envelopes and not heard and not _is_signal(letter):
        types = ", ".join(sorted({envelope.type for envelope in letter.envelopes}))
        raise DeadLetterError(
            f"{letter.handler} does not wait for {types} any more. Send it to a handler that takes it: `choreo "
            f"dead-letters replay {letter.id} --to SERVICE.HANDLER` (in Python: to=...)."
        )
    return heard[0] if heard else None


def _readdressed(letter: DeadLetter, queue: str) -> Message:
    """The message of a letter whose event cannot be read, for another queue."""
    headers = letter.message.headers
    if headers.get("task") == letter.handler:
        headers = headers | {"task": EVENT_TASK}
    return replace(letter.message, exchange="", routing_key=queue, headers=headers)


def _is_signal(letter: DeadLetter) -> bool:
    """True if the failed delivery was a signal (a fired join, or its on_timeout). A replay then repeats the signal."""
    # Without an on_timeout there is nothing to run. The replayed join waits again for the missing parts.
    return letter.reason is not Reason.EXPIRED and letter.message.headers.get("argsrepr", "").startswith(SIGNALS)
