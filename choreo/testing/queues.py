"""The queues of a stage: each event goes to the queue of every handler that listens to it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from choreo.declare.subscription import Subscription
from choreo.delivery.notice import notices_of
from choreo.errors import PublishError
from choreo.events.envelope import Envelope
from choreo.events.message import Message, parsed
from choreo.events.patterns import matches


@dataclass(frozen=True, eq=False)
class PendingDelivery:
    """One message in one queue of the stage."""

    #: The place in the order in which messages came, from 1.
    number: int
    #: The handler, or the queue of a service's notices: "payment.dead_letters".
    handler: str
    message: Message
    #: The event; None for a notice of a dead letter. Each delivery has its own copy.
    event: Envelope | None

    def __str__(self) -> str:
        return f"{self.handler}({self.message.headers.get('argsrepr', '')})"

    @property
    def attempt(self) -> int:
        """The attempt that this delivery is, from 1."""
        return int(self.message.headers.get("retries", 0)) + 1


def event_in(message: Message) -> Envelope:
    """The event that a task message carries: a copy of its own."""
    return Envelope.from_wire(argument_of(message))


def argument_of(message: Message) -> object:
    """The argument of a task message: an event as JSON, or the id of a dead letter."""
    return parsed(message.body)[0][0]


class Queues:
    """
    All queues of a stage, in one list.

    ``choose`` is a callback: it gets the pending deliveries, the oldest first, and returns the one that is next.
    ``services`` are the subscriptions of each service, by its name; they may grow.
    """

    def __init__(
        self,
        services: Mapping[str, Sequence[Subscription]],
        choose: Callable[[Sequence[PendingDelivery]], PendingDelivery],
    ) -> None:
        self._services, self._choose = services, choose
        self.pending: list[PendingDelivery] = []
        self._count = 0
        self._routes: dict[str, list[str]] = {}
        self._notices = {notices_of(service) for service in services}

    def forget_routes(self) -> None:
        """Look at the subscriptions again: there may be new ones."""
        self._routes.clear()

    def put(self, messages: Sequence[Message]) -> list[bool]:
        """
        Put each message into its queues. Returns True for each that has a queue.

        Raises `PublishError`, and takes none, if a message is for a queue that is not on the stage.
        """
        for message in messages:
            if not message.exchange and message.routing_key not in self._names():
                raise PublishError(f"there is no queue {message.routing_key!r} on this stage")
        return [self._put(message) for message in messages]

    def _put(self, message: Message) -> bool:
        queues = self._route(message.routing_key) if message.exchange else [message.routing_key]
        for queue in queues:
            self._count += 1
            event = None if queue in self._notices else event_in(message)
            self.pending.append(PendingDelivery(self._count, queue, message, event))
        return bool(queues)

    def take(self, among: Sequence[PendingDelivery]) -> PendingDelivery:
        """Take the delivery that is next out of its queue. Raises `ValueError` for a choice that is not ``among``."""
        chosen = self._choose(among)
        if not any(pending is chosen for pending in among):
            raise ValueError(f"choose() returned {chosen!r}, which is not one of the pending deliveries.")
        self.pending.remove(chosen)  # deliveries are compared by identity
        return chosen

    def give_back(self, delivery: PendingDelivery) -> None:
        """Put a delivery, of which nothing was recorded, back at the head."""
        self.pending.insert(0, delivery)

    def _route(self, event_type: str) -> list[str]:
        if event_type not in self._routes:
            self._routes[event_type] = [
                subscription.name
                for subscriptions in self._services.values()
                for subscription in subscriptions
                if any(matches(pattern, event_type) for pattern in subscription.patterns)
            ]
        return self._routes[event_type]

    def _names(self) -> Iterator[str]:
        for subscriptions in self._services.values():
            yield from (subscription.name for subscription in subscriptions)
        yield from self._notices


def first(pending: Sequence[PendingDelivery]) -> PendingDelivery:
    """First in, first out."""
    return pending[0]


def due_among(ready: Sequence[PendingDelivery], batches: Mapping[str, int]) -> Sequence[PendingDelivery]:
    """
    The deliveries among these that can be made now: an event waits for its batch to fill while others can be made.

    ``batches`` are the sizes of batches, by handler. If all wait, time passes for a worker: all can be made.
    """
    waiting = Counter(one.handler for one in ready if one.handler in batches and one.attempt == 1)
    full = {handler for handler, count in waiting.items() if count >= batches[handler]}
    due = [one for one in ready if one.handler not in waiting or one.handler in full or one.attempt > 1]
    return due or ready


def rest_of_batch(
    pending: PendingDelivery, ready: Sequence[PendingDelivery], batches: Mapping[str, int]
) -> Sequence[PendingDelivery]:
    """The deliveries that are made together with this one, the oldest first. A retry is made alone."""
    if pending.handler not in batches or pending.attempt > 1:
        return []
    others = [one for one in ready if one.handler == pending.handler and one.attempt == 1 and one is not pending]
    return others[: batches[pending.handler] - 1]
