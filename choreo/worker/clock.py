"""Sending what falls due: retries, deadlines of joins, delayed events, and what a crash left unsent.

Every worker of a service looks into the schedules of its handlers, and every worker of any service into that of the
delayed events, which may come from a program without workers. What one has taken, the others leave alone for a while.
A message is removed only after the broker has it, so a worker that dies in between costs a repetition, which the inbox
recognises.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from choreo.errors import PublishError, StoreError
from choreo.message import Message
from choreo.parts import key_of
from choreo.signals import DEADLINE, signal
from choreo.store import DEADLINE_PREFIX, DELAYED

if TYPE_CHECKING:
    from choreo.service import Service

logger = logging.getLogger(__name__)

#: Seconds between two looks.
TICK = 0.2
#: How many messages of one handler are sent between two looks at the others.
BATCH = 200
#: Seconds for which a taken message is held back from other workers.
HOLD = 5.0
#: For so many seconds a worker's word holds that it sends delayed events.
TENDED = 30.0
#: After so many refusals in one batch the broker itself is taken to be in trouble, and is left alone for a while.
PATIENCE = 3


class Clock(threading.Thread):
    """The thread of a worker that looks into the schedule."""

    def __init__(self, app: "Service") -> None:
        super().__init__(name="choreo-clock", daemon=True)
        self._app = app
        self._stopped = threading.Event()
        self._tell_at = 0.0
        self._owners: list[str] = []

    def run(self) -> None:
        troubled = False
        while not self._stopped.wait(TICK):
            try:
                self.tick()
                troubled = False
            except (StoreError, PublishError) as error:
                # Said once, not five times a second; what is due stays due.
                if not troubled:
                    logger.warning("nothing falls due until this is mended: %s", error)
                troubled = True
            except Exception:
                logger.exception("the clock of %s stumbled, and goes on", self._app.service_name)

    def tick(self) -> int:
        """
        Send everything that is due now. Returns how many messages that was.

        Raises `PublishError` if the broker did not take some; the others are sent all the same.
        """
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TENDED / 3
            self._app.store.tend(DELAYED, TENDED)
            self._owners = self.owners()
        count, trouble = 0, None
        # One batch of each at a time: ten thousand retries of one handler do not delay another's deadlines.
        owners = self._app.store.ripe(self._owners)
        while owners and not self._stopped.is_set():
            busy = []
            for owner in owners:
                due = self._app.store.due(owner, BATCH, HOLD)
                sent, failed = self._send([(key, message or self.reminder(owner, key)) for key, message in due])
                self._app.store.sent(owner, sent)
                count, trouble = count + len(sent), failed or trouble
                if len(due) == BATCH:
                    busy.append(owner)
            owners = busy
        if trouble is not None:
            raise trouble
        return count

    def owners(self) -> list[str]:
        """
        Whose schedules are looked into: what this service declares, and what it declared once.

        What a handler had announced for later, or not sent when it crashed, must leave though its code is gone.
        """
        name = self._app.service_name
        once = [owner for owner in self._app.store.handlers() if owner.partition(".")[0] == name]
        return list(dict.fromkeys([*self._app.calendars, *once]))

    def reminder(self, handler: str, schedule_id: str) -> Message:
        """Tells a join that its time is up. It is made here, so that a million pending joins need not keep it."""
        key = key_of(schedule_id.removeprefix(DEADLINE_PREFIX)) or ""
        queue = self._app.topology.name_of(handler)
        return signal(DEADLINE, handler=handler, key=key, source=self._app.service_name, queue=queue)

    def _send(self, due: list[tuple[str, Message]]) -> tuple[list[str], PublishError | None]:
        if not due:
            return [], None
        try:
            self._app.publisher.send([message for _, message in due])
        except PublishError as error:
            taken = {id(message) for message in error.confirmed}
            sent, trouble = self._send_singly([entry for entry in due if id(entry[1]) not in taken])
            return [key for key, message in due if id(message) in taken] + sent, trouble
        return [key for key, _ in due], None

    def _send_singly(self, due: list[tuple[str, Message]]) -> tuple[list[str], PublishError | None]:
        """One message that the broker refuses must not hold up the others."""
        sent: list[str] = []
        troubles: list[PublishError] = []
        for key, message in due:
            try:
                self._app.publisher.send([message])
                sent.append(key)
            except PublishError as error:
                troubles.append(error)
            if len(troubles) == PATIENCE:
                break
        return sent, troubles[0] if troubles else None

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=5)


class ClockStep(bootsteps.StartStopStep):
    """Starts the clock with the worker's pool, and stops it before."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.clock: Clock | None = None

    def start(self, worker: Any) -> None:
        worker.app.introduce()
        self.clock = Clock(worker.app)
        self.clock.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        if self.clock is not None:
            self.clock.stop()

    terminate = stop
