"""Declaring a queue on RabbitMQ in a way that survives other arguments, and an early kill of the broker.

*Other arguments.* RabbitMQ fixes the arguments of a queue when it is created, and closes the channel of a client that
declares it with other ones. Stock Celery then ends, or reconnects for ever. A queue with older arguments still carries
events. So choreo uses it as it is, and logs the difference and the remedy in one line. RabbitMQ refuses arguments that
it cannot grant in the same way. Then there is no queue, and `DeclarationError` says what RabbitMQ said.

*An early kill.* A RabbitMQ node that is killed may forget a quorum queue that it has just created. The node keeps the
names of its quorum queues in a file (ra's ``names.dets``), and writes a new name only after three seconds (seen with
3.10.8; still so in later releases). After the restart the queue has lost its confirmed messages. Before 4.3 it also has
no leader: it answers neither publishers nor consumers until an operator intervenes, and another restart does not help
(rabbitmq-server#10070, #15725).

The remedy: to look up a new name in the file, the node first writes all names that it holds back. So choreo creates a
second queue after each new one, and deletes it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import amqp
from kombu import Queue

from choreo.errors import DeclarationError

logger = logging.getLogger(__name__)

#: The broker deletes the second queue after so many milliseconds, if this process ends before it does.
EXPIRY = 60_000


class SteadyQueue(Queue):
    """A queue that is used as it is if it exists with other arguments, and survives an early kill of the broker."""

    def queue_declare(self, nowait: bool = False, passive: bool = False, channel: Any = None) -> Any:
        """
        Declare the queue as kombu does; on RabbitMQ, as this module describes. Logs an existing one that differs.

        Raises `DeclarationError` if RabbitMQ cannot make a queue with these arguments.
        """
        channel = channel or self.channel
        if passive or not isinstance(channel, amqp.Channel):
            return super().queue_declare(nowait, passive, channel)
        with self._named_if_silent():
            is_quorum = (self.queue_arguments or {}).get("x-queue-type") == "quorum"
            is_new = is_quorum and not self._exists(channel)
            declared = self._make(channel)
            if is_new:
                self._have_written(channel)
        return declared

    def consume(
        self,
        consumer_tag: str = "",
        callback: Any = None,
        no_ack: bool | None = None,
        nowait: bool = False,
        on_cancel: Any = None,
    ) -> Any:
        """Consume as kombu does, but wait for the answer of each queue, so that an error names the right one."""
        # Kombu waits only for the answer of the last queue.
        nowait = nowait and not isinstance(self.channel, amqp.Channel)
        with self._named_if_silent():
            return super().consume(consumer_tag, callback, no_ack, nowait, on_cancel)

    # Each of these methods opens a channel of its own. RabbitMQ closes a channel when it refuses a request, and the
    # worker's channel would be reopened without its prefetch limit.

    def _exists(self, channel: Any) -> bool:
        try:
            with channel.connection.channel() as own:
                super().queue_declare(False, True, own)
        except amqp.NotFound:
            return False
        return True

    def _make(self, channel: Any) -> Any:
        try:
            with channel.connection.channel() as own:
                return super().queue_declare(False, False, own)
        except amqp.PreconditionFailed as error:
            said = str(error.reply_text).removeprefix("PRECONDITION_FAILED - ")
            if not self._exists(channel):
                raise DeclarationError(
                    f"RabbitMQ does not make queue {self.name}: {said}. Correct the setting that this comes from: "
                    f"task_queues, a task_queue_... setting, or a policy. The arguments were {self.queue_arguments}."
                ) from error
            logger.error(
                "queue %s exists with other settings than this version gives it, and is used as it is: %s. "
                "To renew it: stop the service, move or work off its messages, delete the queue, start the service.",
                self.name,
                said,
            )
        with channel.connection.channel() as own:
            return super().queue_declare(False, True, own)

    def _have_written(self, channel: Any) -> None:
        """Make the broker write the name of this queue to disk, by creating and deleting a second one."""
        name = f"{self.name}.{uuid4().hex}"
        arguments = {"x-queue-type": "quorum", "x-expires": EXPIRY}
        try:
            with channel.connection.channel() as own:
                own.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
                own.queue_delete(name)
        except amqp.ChannelError as error:
            # The user's permissions or the broker's limits may forbid a second queue.
            logger.warning("queue %s is lost if the broker is killed within a few seconds: %s", self.name, error)

    @contextmanager
    def _named_if_silent(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            logger.error(
                "queue %s does not answer, so this worker consumes from no queue. `rabbitmq-queues quorum_status %s` "
                "shows its leader; if it has none, docs/deployment.md (After a restart) says what to do.",
                self.name,
                self.name,
            )
            raise
