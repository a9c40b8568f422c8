"""Leftovers: what still waits for a handler that is being retired, and where it goes instead."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kombu import Connection

from choreo.broker.incoming import UNCOUNTED, Incoming
from choreo.broker.lines import ensure_connected
from choreo.delivery.dead_letter import DeadLetter
from choreo.delivery.notice import park
from choreo.delivery.ports import Ports
from choreo.delivery.signals import DEADLINE, signal
from choreo.delivery.undeclared_letters import park_undeclared
from choreo.delivery.unsendable import park_unreadable
from choreo.errors import UntrustedError
from choreo.events.envelope import Envelope
from choreo.events.lineage import NO_LINEAGE, lineage_of
from choreo.events.message import Message, parsed
from choreo.operate.route import Route
from choreo.store.claims import Claim, Settlement
from choreo.store.parts import key_of
from choreo.store.schedule import DEADLINE_PREFIX, Kept, Scheduled, Unreadable, deadline_id

#: The most messages, entries or joins that one step moves.
BATCH = 100


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where leftovers go: to the handler ``to``, or, if it is "", into dead letters, whose error is ``why``."""

    to: str = ""
    why: str = ""


class Leftovers:
    """
    Moves what waits for one handler: messages in its queue, entries of its schedule, parts of its joins.

    Nothing is lost, and nothing is moved twice, wherever the process ends. A message is acked once the store has
    committed what becomes of it, and its unit is then finished: if the message comes back, it is dropped. The events
    for another handler are scheduled before that commit. After a crash in between they are sent twice at worst, and the
    inbox of that handler recognises them.

    ``ports`` are those of a service of the handler. ``connect`` is a callback: it opens a connection to the broker.
    Each method raises `StoreError`, the broker's errors, or `DeadLetterError` if the other handler does not take it.
    """

    def __init__(self, ports: Ports, handler: str, connect: Callable[[], Connection], where: Elsewhere) -> None:
        self._ports, self._handler, self._where = ports, handler, where
        self._queue = ports.queue_of(handler)
        self._connect = connect
        self._held: Connection | None = None
        self._route = Route(ports.store, ports.queue_of)

    def move(self) -> int:
        """Move some of what waits. Returns how many messages, entries and joins that were; 0 if nothing could go."""
        return self._from_queue() + self._from_schedule() + self._from_joins()

    def close(self) -> None:
        """Close the connection. The broker takes back what was not acked."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _from_queue(self) -> int:
        channel = self._channel
        for count in range(BATCH):
            message = channel.basic_get(self._queue)
            if message is None:
                return count
            if not self._settled(channel, message):
                return count
        return BATCH

    @property
    def _channel(self) -> Any:
        if self._held is None:
            connection = self._connect()
            ensure_connected(connection)
            self._held = connection
        return self._held.default_channel

    def _settled(self, channel: Any, message: Any) -> bool:
        """Settle one message that was taken. False: a worker that has died holds its claim for some seconds more."""
        try:
            is_done = self._taken(Incoming(message).raw(self._queue))
        except BaseException:
            channel.basic_reject(message.delivery_tag, requeue=UNCOUNTED)
            raise
        if is_done:
            channel.basic_ack(message.delivery_tag)
        else:
            channel.basic_reject(message.delivery_tag, requeue=UNCOUNTED)
        return is_done

    def _taken(self, message: Message) -> bool:
        """Settle one message of the queue. What the handler may not trust goes nowhere else: it is a dead letter."""
        signing = self._ports.signing
        if signing is not None:
            try:
                event = Envelope.from_wire(parsed(message.body)[0][0])
                signing.checked(event, self._queue)
            except UntrustedError as fault:
                park(self._ports, self._handler, message, fault, (event,))
                return True
            except (ValueError, LookupError, TypeError, RecursionError):
                pass  # it cannot be read, and becomes a dead letter
        return self._park("", message)

    def _from_schedule(self) -> int:
        entries = [entry for entry in own_entries(self._ports, self._handler) if not entry.is_leaving]
        return sum(self._moved(entry) for entry in entries[:BATCH])

    def _moved(self, entry: Kept) -> bool:
        if isinstance(entry.message, Unreadable):
            park_unreadable(self._ports, self._handler, entry.id, entry.message)
            return True
        assert entry.message is not None
        return self._park(entry.id, entry.message)

    def _from_joins(self) -> int:
        units, _ = self._ports.store.pending(self._handler, BATCH)
        return sum(self._park(deadline_id(unit), self._deadline_of(unit)) for unit in units)

    def _deadline_of(self, unit: str) -> Message:
        now, source = self._ports.store.now(), self._ports.service_name
        key = key_of(unit) or ""
        return signal(DEADLINE, handler=self._handler, key=key, source=source, queue=self._queue, now=now)

    def _park(self, key: str, message: Message) -> bool:
        keep = self._redirect if self._where.to else None
        return park_undeclared(self._ports, self._handler, key, message, error=self._where.why, keep=keep, is_due=False)

    def _redirect(self, ports: Ports, claim: Claim, letter: DeadLetter, settlement: Settlement) -> None:
        """Send the events of what would be a dead letter to the other handler, as if they had just been announced."""
        to = self._where.to
        try:
            self._route.check(letter, to)
        except Exception:
            ports.store.commit(claim, Settlement(done=False))
            raise
        lineage = lineage_of(letter.message.headers) if len(letter.envelopes) == 1 else NO_LINEAGE
        for event in letter.envelopes:
            carried = Message.carrying(event, exchange="", routing_key=ports.queue_of(to), lineage=lineage)
            ports.store.schedule(to, Scheduled(f"redirect:{letter.handler}:{event.identity}", carried))
        ports.store.commit(claim, settlement)


def own_entries(ports: Ports, handler: str) -> list[Kept]:
    """The entries of a handler's schedule that would go to its own queue, without the deadlines of its joins."""
    queue = ports.queue_of(handler)
    return [entry for entry in _entries(ports, handler) if _is_own(entry, queue)]


def _entries(ports: Ports, handler: str) -> Iterator[Kept]:
    after = 0.0, ""
    while page := ports.store.entries(handler, BATCH, after):
        yield from page
        after = page[-1].due, page[-1].id


def _is_own(entry: Kept, queue: str) -> bool:
    if entry.id.startswith(DEADLINE_PREFIX):
        return False
    message = entry.message
    return isinstance(message, Unreadable) or (
        message is not None and not message.exchange and message.routing_key == queue
    )
