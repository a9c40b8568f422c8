"""The kinds of deliveries: which one handles an event."""

from typing import Any

from choreo.declare.join import Join
from choreo.declare.story import Story
from choreo.declare.subscription import Subscription
from choreo.delivery.delivery import Delivery
from choreo.delivery.join import FormerJoinDelivery, JoinDelivery
from choreo.delivery.ports import Ports
from choreo.delivery.signals import SIGNALS
from choreo.delivery.story import StoryDelivery
from choreo.events.envelope import Envelope


def delivery_to(ports: Ports, subscription: Subscription, envelope: Envelope, attempt: int, **options: Any) -> Delivery:
    """
    A delivery to this handler. ``options`` are those of `Delivery`.

    Raises `EnvelopeError` when the handler can do nothing with such an event.
    """
    kind: type[Delivery] = JoinDelivery if isinstance(subscription, Join) else Delivery
    if isinstance(subscription, Story):
        kind = StoryDelivery
    if kind is Delivery and envelope.type in SIGNALS:
        kind = FormerJoinDelivery
    return kind(ports, subscription, envelope, attempt, **options)
