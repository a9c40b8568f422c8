"""Declaring a queue so that it works, whatever the broker has or forgets.

RabbitMQ fixes the arguments of a queue when it is made, and closes the channel of whoever declares it differently.
Stock Celery then dies, or reconnects for ever. A queue with last year's arguments still carries events, so it is used
as it is, and one line in the log says what differs and what to do.

RabbitMQ also forgets a quorum queue that it made a moment ago, if it is killed then. The node's list of its quorum
queues is a file that new names reach only after three seconds (seen with 3.10.8; ra's ``names.dets``, written so to
this day). After the restart such a queue has lost what was confirmed in it, and before 4.3 it also has no leader: it
answers neither publishers nor consumers until somebody intervenes, and restarting the broker again changes nothing
(rabbitmq-server#10070, #15725). But a new name makes the node look into the file, for which it writes first what it
has held back. So choreo has a second queue made after each new one, and deleted.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import amqp
from kombu import Queue

logger = logging.getLogger(__name__)

#: Should nobody be left to delete the second queue, the broker does after so many milliseconds.
EXPIRY = 60_000


class SteadyQueue(Queue):
    """A queue that is used as it is when the broker has it with other arguments, and is not forgotten if it is new."""

    def queue_declare(self, nowait: bool = False, passive: bool = False, channel: Any = None) -> Any:
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
        # kombu waits only for the answer of the last queue, which would then take the blame for all.
        nowait = nowait and not isinstance(self.channel, amqp.Channel)
        with self._named_if_silent():
            return super().consume(consumer_tag, callback, no_ack, nowait, on_cancel)

    # Each of these has a channel of its own. What RabbitMQ refuses closes the channel, and the worker's would come
    # back without its prefetch limit.

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
            logger.error(
                "queue %s exists with other settings than this version gives it, and is used as it is: %s. "
                "To renew it: stop the service, move or work off its messages, delete the queue, start the service.",
                self.name,
                str(error.reply_text).removeprefix("PRECONDITION_FAILED - "),
            )
        with channel.connection.channel() as own:
            return super().queue_declare(False, True, own)

    def _have_written(self, channel: Any) -> None:
        """Have the broker write down that this queue exists."""
        name = f"{self.name}.{uuid4().hex}"
        arguments = {"x-queue-type": "quorum", "x-expires": EXPIRY}
        try:
            with channel.connection.channel() as own:
                own.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
                own.queue_delete(name)
        except amqp.ChannelError as error:
            # The broker's permissions or limits may not allow it.
            logger.warning("queue %s is lost if the broker is killed within a few seconds: %s", self.name, error)

    @contextmanager
    def _named_if_silent(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            logger.error(
                "queue %s does not answer, so that this worker consumes from none. `rabbitmq-queues quorum_status %s` "
                "says whether it has a leader, and docs/deployment.md (After a restart) what to do if it has not.",
                self.name,
                self.name,
            )
            raise
