"""A delivery of RabbitMQ between its reading and its delivery to a consumer."""

from dataclasses import dataclass
from typing import Any

from choreo.broker.incoming import EventText
from choreo.broker.rabbitmq.own_messages import own_event_in


@dataclass(slots=True, eq=False)
class Taken:
    """
    A message that RabbitMQ has delivered, and that no consumer of this process has got yet.

    It is read when someone asks for it: either the event straight from the frames, or py-amqp's message.
    """

    queue: str
    tag: int
    #: The tag of the consumer to which RabbitMQ delivered it.
    consumer: str
    #: The payloads of its frames: method, header, body. Empty if py-amqp has read it.
    frames: tuple[bytes, bytes, bytes] | None = None
    #: py-amqp's message; None as long as it was not needed.
    message: Any = None
    #: True if it was delivered before, as RabbitMQ says it.
    redelivered: bool = False
    #: True once the channel's hooks have begun to handle the message.
    begun: bool = False
    #: For the channel's hooks; the channel does not use it.
    note: Any = None
    _read: bool = False
    _event: EventText | None = None

    @property
    def event(self) -> EventText | None:
        """The event in the message; None unless choreo wrote the message and it was not delivered before."""
        if not self._read:
            self._read = True
            if self.frames is not None and not self.redelivered:
                self._event = own_event_in(self.frames[1], self.frames[2])
        return self._event

    @property
    def known_event(self) -> EventText | None:
        """The same as `event`, but None if `event` was not read yet."""
        return self._event
