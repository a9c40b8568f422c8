"""The clock: sends messages that fall due: retries, deadlines of joins, delayed events, and the outbox after a crash.

Every worker of a service looks into the schedules of its handlers. Every worker of any service looks into the schedule
of the delayed events, which may come from a program without workers. A message that one worker has taken is held back
from the others for `HOLD` seconds. It is removed only after the broker has it. So a worker that dies in between costs a
repetition, which the inbox recognises.
"""

import logging
import time
from collections.abc import Sequence

from choreo.daemon import Daemon
from choreo.delivery.breaker import hold_back
from choreo.delivery.notice import park
from choreo.delivery.ports import Ports
from choreo.delivery.signals import DEADLINE, signal
from choreo.delivery.undeclared import is_handler
from choreo.delivery.undeclared_letters import park_undeclared
from choreo.delivery.unsendable import is_given_up, park_unreadable
from choreo.errors import EnvelopeError, PublishError, StoreError
from choreo.events.message import Message
from choreo.store.parts import key_of
from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, TENDED, Unreadable

logger = logging.getLogger(__name__)

#: A message that is due, with its id in the schedule; None in place of it for the deadline of a join.
Due = tuple[str, Message | None]

#: Seconds between two looks.
TICK = 0.2
#: The most messages of one handler that are sent before those of the others.
BATCH_MESSAGES = 200
#: Seconds for which a taken message is held back from other workers.
HOLD = 5.0
#: Failures in one batch after which the broker itself counts as in trouble. The rest waits for the next look. Messages
#: that a broker refuses while it is well are not counted.
PATIENCE = 3


class Clock:
    """
    The clock of one service, in one worker: it starts and stops with the worker.

    `start` runs it in a thread, which calls `tick` every `TICK` seconds. After `stop` it cannot be started again.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._daemon = Daemon("choreo-clock", self._turn, TICK, self._failed)
        self._is_failing = False
        self._tell_at = 0.0
        self._names: list[str] = []

    def start(self) -> None:
        """Start the thread, unless it runs."""
        self._daemon.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end: 5 seconds at most."""
        self._daemon.stop()

    def _turn(self) -> None:
        self.tick()
        self._is_failing = False

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, (StoreError, PublishError)):
            logger.error("the clock of %s failed in one look, and goes on", self._ports.service_name, exc_info=error)
            return
        # Logged once, not five times a second. The messages stay due.
        if not self._is_failing:
            logger.warning("due messages wait until this is mended: %s", error)
        self._is_failing = True

    def tick(self) -> int:
        """
        Send everything that is due now. Returns the number of messages sent.

        Raises `PublishError` if the broker did not take some messages (the others are sent, and these stay due), and
        `StoreError`. A message that the broker refuses too often, and one that cannot be read, become dead letters.
        """
        if time.monotonic() >= self._tell_at:
            self._ports.store.tend(DELAYED, TENDED)
            self._names = self.schedule_names()
            self._tell_at = time.monotonic() + TENDED / 3
            self._ports.store.watch()
        return self.send_due(self._names)

    def send_due(self, names: Sequence[str]) -> int:
        """
        Send everything in these schedules that is due now. Returns the number of messages.

        Raises `PublishError` if the broker did not take some, and `StoreError` if the store refused to hand some out;
        the others are sent all the same.
        """
        count = 0
        trouble: PublishError | StoreError | None = None
        # One batch of each schedule in turn: ten thousand retries of one handler do not delay another's deadlines.
        names = self._ports.store.ripe(names)
        while names and not self._daemon.is_stopped:
            busy = []
            for name in names:
                try:
                    sent, is_busy, failed = self._send_batch(name)
                except StoreError as refusal:
                    if refusal.is_outage:
                        raise
                    sent, is_busy, failed = 0, False, refusal
                count, trouble = count + sent, failed or trouble
                if is_busy:
                    busy.append(name)
            names = busy
        if trouble is not None:
            raise trouble
        return count

    def _send_batch(self, name: str) -> tuple[int, bool, PublishError | StoreError | None]:
        """Send what is due in one schedule. Returns the number, whether more may be due, and the last trouble."""
        found = self._ports.store.due(name, BATCH_MESSAGES, HOLD)
        due = self._without_held(name, self._readable(name, found))
        if due and self._is_undeclared(name):
            due = self._park_undeclared(name, due)
        now = 0.0 if all(message for _, message in due) else self._ports.store.now()
        messages = [(key, message or self.deadline_signal(name, key, now)) for key, message in due]
        sent, trouble = self._send(name, messages)
        self._ports.store.sent(name, sent)
        return len(sent), len(found) == BATCH_MESSAGES, trouble

    def _readable(self, name: str, due: Sequence[tuple[str, Message | Unreadable | None]]) -> list[Due]:
        """Make dead letters of the entries that are no messages. Returns the others."""
        for key, entry in due:
            if isinstance(entry, Unreadable):
                park_unreadable(self._ports, name, key, entry)
        return [(key, entry) for key, entry in due if not isinstance(entry, Unreadable)]

    def _without_held(self, name: str, due: list[Due]) -> list[Due]:
        """The entries without the retries of a handler whose breaker is open: these wait until it closes."""
        retries = [(key, message) for key, message in due if message is not None and key.startswith("retry:")]
        if not retries:
            return due
        others = [entry for entry in due if not (entry[1] is not None and entry[0].startswith("retry:"))]
        return [*others, *hold_back(self._ports.store, name, retries)]

    def schedule_names(self) -> list[str]:
        """
        The names of the schedules that this clock looks into: handlers that are declared now, or were declared before.

        The delayed events and the outbox of a handler must be sent even after its code is gone.
        """
        service = self._ports.service_name
        once = [name for name in self._ports.store.handlers() if name.partition(".")[0] == service]
        return list(dict.fromkeys([*self._ports.schedules(), *once]))

    def deadline_signal(self, handler: str, schedule_id: str, now: float) -> Message:
        """
        The message that tells a join of its deadline. It is made here: a million pending joins store none.

        ``now`` is the time by the store's clock.
        """
        key = key_of(schedule_id.removeprefix(DEADLINE_PREFIX)) or ""
        queue = self._ports.queue_of(handler)
        return signal(DEADLINE, handler=handler, key=key, source=self._ports.service_name, queue=queue, now=now)

    def _is_undeclared(self, name: str) -> bool:
        """True for a handler that no worker declares any more, so that none would read its queue."""
        if name in self._ports.schedules() or not is_handler(name):
            return False
        listening = self._ports.store.listening(self._ports.service_name)
        return listening is not None and self._ports.queue_of(name) not in listening.queues

    def _park_undeclared(self, handler: str, due: list[Due]) -> list[Due]:
        """Make dead letters of the messages to the handler itself. Returns the others: the events it has announced."""
        queue = self._ports.queue_of(handler)
        others: list[Due] = []
        for key, message in due:
            if message is not None and (message.exchange or message.routing_key != queue):
                others.append((key, message))
            else:
                self._park_one(handler, key, message)
        return others

    def _park_one(self, handler: str, key: str, message: Message | None) -> None:
        """Make a dead letter of one message. If the handler can have none, the message is kept as it is."""
        message = message or self.deadline_signal(handler, key, self._ports.store.now())
        try:
            park_undeclared(self._ports, handler, key, message)
        except Exception as error:
            if isinstance(error, StoreError) and error.is_outage:
                raise
            park(self._ports, handler, message, EnvelopeError(f"no dead letter can be made of {key!a}: {error}"))
            self._ports.store.sent(handler, [key])

    def _send(self, name: str, due: list[tuple[str, Message]]) -> tuple[list[str], PublishError | None]:
        if not due:
            return [], None
        try:
            self._ports.publisher.send([message for _, message in due])
        except PublishError as error:
            taken = {id(message) for message in error.confirmed}
            sent, trouble = self._send_singly(name, [entry for entry in due if id(entry[1]) not in taken])
            return [key for key, message in due if id(message) in taken] + sent, trouble
        return [key for key, _ in due], None

    def _send_singly(self, name: str, due: list[tuple[str, Message]]) -> tuple[list[str], PublishError | None]:
        """
        Send one by one, so that a message which the broker refuses does not hold up the others.

        One that is refused too often counts as sent: it is a dead letter then.
        """
        sent: list[str] = []
        troubles: list[PublishError] = []
        for key, message in due:
            try:
                self._ports.publisher.send([message])
                sent.append(key)
            except PublishError as error:
                if not error.is_outage and is_given_up(self._ports, name, key, message, error):
                    sent.append(key)
                else:
                    troubles.append(error)
            if sum(trouble.is_outage for trouble in troubles) == PATIENCE:
                break
        return sent, troubles[0] if troubles else None
