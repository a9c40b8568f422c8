"""A publisher without a broker: it hands messages to a function in this process."""

from collections.abc import Callable, Sequence

from kombu import Exchange

from choreo.broker.lines import Post
from choreo.broker.publisher import Publisher
from choreo.errors import ChoreoError, PublishError
from choreo.events.envelope import Envelope
from choreo.events.message import Message

#: Callback: takes messages. Returns True for each that has a queue. Raises `PublishError` if it takes none of them.
Take = Callable[[Sequence[Message]], Sequence[bool]]


class MemoryPublisher(Publisher):
    """Checks and counts events as `Publisher` does, and hands them to ``take`` instead of a broker."""

    def __init__(self, take: Take) -> None:
        super().__init__(_no_connection, Exchange("choreo.events", type="topic"))
        self._take = take
        #: The error that each call raises instead of taking messages; None: every message is taken.
        self.fails: ChoreoError | None = None

    def _publish(self, messages: Sequence[Message]) -> list[Post]:
        if not messages:
            return []
        if self.fails is not None:
            raise self.fails
        heard = self._take(messages)
        posts = [Post(message, confirmed=True, heard=one) for message, one in zip(messages, heard, strict=True)]
        self.note_unheard(post.message for post in posts if not (post.heard or post.to_one_queue))
        return posts

    async def _collected(self, messages: Sequence[Message], envelopes: Sequence[Envelope]) -> Sequence[Post]:  # noqa: ARG002
        """Hand the messages over in this thread: nothing of it waits."""
        return self._publish(messages)


def _no_connection() -> None:
    raise PublishError("there is no broker in this test")
