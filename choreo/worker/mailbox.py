"""The mailbox of a worker: the queue of its remote control.

On RabbitMQ the queue is exclusive: it belongs to one connection, and a second worker of the same node name is refused
it. Celery takes that for a lost connection, and connects again and again.
"""

import logging
import time
from contextlib import suppress
from itertools import count
from typing import Any

import amqp
from celery.platforms import EX_FAILURE
from celery.worker import state
from kombu.exceptions import InconsistencyError
from kombu.pidbox import Mailbox, Node

from choreo.worker.outage import CHECK_SECONDS

logger = logging.getLogger(__name__)

#: Seconds for which a worker waits for its mailbox. RabbitMQ takes up to three heartbeats of 60 seconds to notice that
#: the connection of an earlier worker is dead.
PATIENCE = 180.0
#: Seconds between two tries.
PAUSE = 2.0


class ExclusiveNode(Node):
    """A node of remote control that waits for its mailbox while another worker of its name has it."""

    def listen(self, channel: Any = None, callback: Any = None) -> Any:
        """
        Consume the mailbox, as kombu does, as soon as no other worker has it.

        Stops the worker after `PATIENCE` seconds: raises `WorkerShutdown`, with the exit code of a failure.
        """
        for attempt in count():
            # py-amqp opens the channel again that RabbitMQ closes when it refuses.
            with suppress(amqp.ResourceLocked, InconsistencyError):
                return super().listen(channel, callback)
            self._wait(attempt)
        return None

    def _wait(self, attempt: int) -> None:
        if attempt == 0:
            logger.error(
                "another worker is named %s, or was a moment ago, and has the mailbox of that name on the broker. This "
                "worker begins once that one has stopped, or ends in %g s. If both are to run, give this one another "
                "name: -n second@%%h",
                self.hostname,
                PATIENCE,
            )
        if (attempt + 1) * PAUSE > PATIENCE:
            logger.critical(
                "the other worker named %s still runs, so this one ends. Start it as -n second@%%h", self.hostname
            )
            state.should_stop = EX_FAILURE
        until = time.monotonic() + PAUSE
        while time.monotonic() < until:
            state.maybe_shutdown()
            time.sleep(CHECK_SECONDS)


class ServiceMailbox(Mailbox):
    """Kombu's mailbox, with `ExclusiveNode`."""

    node_cls = ExclusiveNode
