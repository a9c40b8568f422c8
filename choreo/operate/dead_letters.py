"""Operations on dead letters: find, replay, discard."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from choreo.declare.counts import counts_among
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.failure import line_of
from choreo.delivery.signals import SIGNALS
from choreo.errors import DeadLetterError, StoreError
from choreo.events.envelope import Envelope
from choreo.events.lineage import NO_LINEAGE, lineage_of
from choreo.events.message import EVENT_TASK, Message, parsed
from choreo.operate.route import Route
from choreo.printing import one_line
from choreo.store.parts import addressed, key_of, name_of, packed
from choreo.store.port import Store
from choreo.store.schedule import Scheduled

T = TypeVar("T")

logger = logging.getLogger(__name__)

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
        self._route = Route(store, queue_of)

    @property
    def handlers(self) -> list[str]:
        """Every handler whose service has ever started a worker, and each service, for its other queues. Sorted."""
        return self._store.handlers()

    def __iter__(self) -> Iterator[DeadLetter]:
        """Iterate over all dead letters, oldest first."""
        return iter(self.find())

    def find(self, *names: str) -> list[DeadLetter]:
        """Return dead letters, oldest first: all of them, or those of these services (``payment``) and handlers."""
        letters = [read(handler, text) for handler in self._handlers(names) for text in self._letters(handler)]
        return sorted(letters, key=lambda letter: letter.failed_at)

    def _letters(self, handler: str) -> list[str]:
        return _shown(handler, partial(self._store.letters, handler), [])

    def get(self, letter_id: str) -> DeadLetter:
        """Return the dead letter with this id. Raises `DeadLetterError` when there is none."""
        for handler in self._handlers(()):
            text = _shown(handler, partial(self._store.letter, handler, letter_id), None)
            if text is not None:
                return read(handler, text)
        raise DeadLetterError(f"There is no dead letter {letter_id!r}. `choreo dead-letters list` shows all of them.")

    def replay(self, letter_id: str, to: str | None = None) -> DeadLetter:
        """
        Schedule the event for the handler that failed, and for no other handler. Removes the dead letter.

        The handler runs when a worker of the service takes the event. It has all its attempts again, and the same
        idempotency key and event ids, so other systems recognise earlier effects. The task id is a new one, so that a
        revoked event runs as well. If it fails again, a new dead letter is made. ``to`` names another handler,
        ``service.handler``, which gets the event as if it had just been announced: for a handler that was renamed. It
        gets every part of a join.

        Raises `DeadLetterError`, and keeps the dead letter, when no worker declares the handler any more, the handler
        does not listen to the event, or another join is pending for the same key. Also raises it when there is no dead
        letter with this id, or it was just replayed or discarded by another process.
        """
        letter = self.get(letter_id)
        self._route.check(letter, to)
        if letter.message.content_type == UNKNOWN:
            raise DeadLetterError(
                f"Dead letter {letter_id!r} cannot be replayed by this version of choreo: {letter.error}. The version "
                f"that wrote it can. `choreo dead-letters show {letter_id}` shows all of it."
            )
        description = self._description(letter.handler)
        sent = replace(letter, envelopes=tuple(envelope.replayed(letter.id) for envelope in letter.envelopes))
        if (to or letter.handler) != letter.handler or _is_of_former_join(letter, description):
            self._forward(sent, to or letter.handler)
        else:
            self._repeat(sent, description)
        return letter

    def _repeat(self, letter: DeadLetter, description: Mapping[str, Any]) -> None:
        """Send the event to the handler that failed, whose unit runs again."""
        queue = self._queue_of(letter.handler)
        key = key_of(letter.unit) if letter.unit is not None else None
        carried, lineage = _carried(letter, description), lineage_of(letter.message.headers)
        parts = {} if key is None else _parts_of(letter, description)
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
        if key is not None and self._store.look(letter.handler, letter.unit or "") is not None:
            raise DeadLetterError(
                f"{letter.handler} waits for other events with the key {key!r}. Replay dead letter {letter.id!r} when "
                f"that join is settled: `choreo joins show {key}`."
            )
        scheduled = Scheduled(f"replay:{letter.id}", message)
        if not self._store.replay(letter.handler, letter.id, letter.unit, parts, scheduled):
            raise self._too_late(letter)

    def _forward(self, letter: DeadLetter, to: str) -> None:
        """Send each event of the letter to this handler, as if it had just been announced."""
        queue = self._queue_of(to)
        # The message of a join's letter carries one of its events, and does not tell the lineage of the others.
        lineage = lineage_of(letter.message.headers) if len(letter.envelopes) == 1 else NO_LINEAGE
        messages = [
            Message.carrying(envelope, exchange="", routing_key=queue, lineage=lineage) for envelope in letter.envelopes
        ]
        # First the messages, then the letter: after a crash in between, the events are sent twice at worst.
        for number, message in enumerate(messages or [_readdressed(letter, queue)]):
            self._store.schedule(to, Scheduled(f"replay:{letter.id}:{number}", message))
        if not self._store.discard(letter.handler, letter.id):
            raise self._too_late(letter)

    @staticmethod
    def _too_late(letter: DeadLetter) -> DeadLetterError:
        return DeadLetterError(f"Dead letter {letter.id!r} has just been replayed or discarded by another process.")

    def _description(self, handler: str) -> Mapping[str, Any]:
        """The description of a join; empty for another handler."""
        text = self._store.joins().get(handler)
        return json.loads(text) if text else {}

    def discard(self, letter_id: str) -> DeadLetter:
        """Delete a dead letter, and return it. Raises `DeadLetterError` when there is none with this id."""
        letter = self.get(letter_id)
        self._store.discard(letter.handler, letter_id)
        return letter

    def _handlers(self, names: Iterable[str]) -> list[str]:
        known = self._store.handlers()
        if not names:
            return known
        return [handler for handler in known if handler in names or handler.rpartition(".")[0] in names]


def _shown(handler: str, ask: Callable[[], T], otherwise: T) -> T:
    """What the store answers. If it refuses to show the dead letters of this handler, log that, and go on without."""
    try:
        return ask()
    except StoreError as error:
        if error.is_outage:
            raise
        logger.warning("the dead letters of %s cannot be read: %s", one_line(handler), error)
        return otherwise


def _is_of_former_join(letter: DeadLetter, description: Mapping[str, Any]) -> bool:
    """True if the letter is of a join, and its handler is none any more."""
    return letter.unit is not None and key_of(letter.unit) is not None and bool(description.get("former"))


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


def _parts_of(letter: DeadLetter, description: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a join as the store keeps them."""
    several: Mapping[str, Any] = description.get("several", {})
    many = description["parts"] if description.get("rounds") else several
    parts = {name_of(envelope, many): packed(envelope) for envelope in letter.envelopes}
    counts = counts_among(letter.envelopes, several)
    return parts | {f"?{part}": str(count) for part, count in counts.items()}


def _readdressed(letter: DeadLetter, queue: str) -> Message:
    """The message of a letter whose event cannot be read, for another queue."""
    headers = letter.message.headers
    if headers.get("task") == letter.handler:
        headers = headers | {"task": EVENT_TASK}
    return replace(letter.message, exchange="", routing_key=queue, headers=headers)


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
