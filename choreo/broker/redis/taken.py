"""Messages between taking and delivery."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from choreo.broker.incoming import EventText, plain_event
from choreo.broker.redis.packing import unpack
from choreo.broker.redis.receipt import CERTAIN_UNTIL, CLAIM, TAG


@dataclass(slots=True, eq=False)
class Taken:
    """A message that was taken, and is not delivered yet."""

    queue: str
    #: The delivery tag; "" if the message need not be acked.
    tag: str
    text: bytes
    #: The claim that was made when the message was taken, and the time until which it certainly holds: see `Receipt`.
    claim: str = ""
    certain_until: float = 0.0
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
            self._event, self._read = plain_event(self.text), True
        return self._event

    def plain(self) -> tuple[str, str, bytes, str, float]:
        """The first five fields, which make the same message in another process."""
        return self.queue, self.tag, self.text, self.claim, self.certain_until

    @property
    def known_event(self) -> EventText | None:
        """The same as `event`, but None if `event` was not read yet."""
        return self._event


def untouched(back: Iterable[Taken]) -> list[str]:
    """The tags of the messages that no hook has begun to handle: they return as if they had never been delivered."""
    return [taken.tag for taken in back if taken.tag and not taken.begun]


def payload_of(taken: Taken, delivery_tag: str) -> dict[str, Any]:
    """The message in kombu's form. Its delivery info is that of a `Receipt`, unless it need not be acked."""
    payload = unpack(taken.text)
    properties = payload["properties"]
    properties["delivery_tag"] = delivery_tag
    if taken.tag:
        about = {TAG: taken.tag, CERTAIN_UNTIL: taken.certain_until}
        properties["delivery_info"].update(about | {CLAIM: taken.claim} if taken.claim else about)
    return payload
