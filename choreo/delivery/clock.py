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
from choreo.delivery.ports import Ports
from choreo.delivery.signals import DEADLINE, signal
from choreo.delivery.undeclared import is_handler
from choreo.delivery.undeclared_letters import park_undeclared
from choreo.errors import PublishError, StoreError
from choreo.events.message import Message
from choreo.store.parts import key_of
from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, TENDED

logger = logging.getLogger(__name__)

#: Seconds between two looks.
TICK = 0.2
#: The most messages of one handler that are sent before those of the others.
BATCH_MESSAGES = 200
#: Seconds for which a taken message is held back from other workers.
HOLD = 5.0
#: Refusals in one batch after which the broker itself counts as in trouble. The rest waits for the next look.
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
        `StoreError`.
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

        Raises `PublishError` if the broker did not take some; the others are sent all the same.
        """
        count, trouble = 0, None
        # One batch of each schedule in turn: ten thousand retries of one handler do not delay another's deadlines.
        names = self._ports.store.ripe(names)
        while names and not self._daemon.is_stopped:
            busy = []
            for name in names:
                due = self._ports.store.due(name, BATCH_MESSAGES, HOLD)
                if due and self._is_undeclared(name):
                    due = self._park_undeclared(name, due)
                now = 0.0 if all(message for _, message in due) else self._ports.store.now()
                sent, failed = self._send(
                    [(key, message or self.deadline_signal(name, key, now)) for key, message in due]
                )
                self._ports.store.sent(name, sent)
                count, trouble = count + len(sent), failed or trouble
                if len(due) == BATCH_MESSAGES:
                    busy.append(name)
            names = busy
        if trouble is not None:
            raise trouble
        return count

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

    def _park_undeclared(self, handler: str, due: list[tuple[str, Message | None]]) -> list[tuple[str, Message | None]]:
        """Make dead letters of the messages to the handler itself. Returns the others: the events it has announced."""
        queue = self._ports.queue_of(handler)
        others: list[tuple[str, Message | None]] = []
        for key, message in due:
            if message is not None and (message.exchange or message.routing_key != queue):
                others.append((key, message))
            else:
                self._park_one(handler, key, message)
        return others

    def _park_one(self, handler: str, key: str, message: Message | None) -> None:
        """Make a dead letter of one message. If that fails, it stays in the schedule, and holds up no other."""
        try:
            now = self._ports.store.now()
            park_undeclared(self._ports, handler, key, message or self.deadline_signal(handler, key, now))
        except Exception as error:
            if isinstance(error, StoreError) and error.is_outage:
                raise
            logger.exception("%s: no dead letter can be made of %r; it stays in the schedule", handler, key)

    def _send(self, due: list[tuple[str, Message]]) -> tuple[list[str], PublishError | None]:
        if not due:
            return [], None
        try:
            self._ports.publisher.send([message for _, message in due])
        except PublishError as error:
            taken = {id(message) for message in error.confirmed}
            sent, trouble = self._send_singly([entry for entry in due if id(entry[1]) not in taken])
            return [key for key, message in due if id(message) in taken] + sent, trouble
        return [key for key, _ in due], None

    def _send_singly(self, due: list[tuple[str, Message]]) -> tuple[list[str], PublishError | None]:
        """Send one by one, so that a message which the broker refuses does not hold up the others."""
        sent: list[str] = []
        troubles: list[PublishError] = []
        for key, message in due:
            try:
                self._ports.publisher.send([message])
                sent.append(key)
            except PublishError as error:
                troubles.append(error)
            if len(troubles) == PATIENCE:
                break
        return sent, troubles[0] if troubles else None
