"""The kinds of deliveries: which one handles an event."""

from typing import Any

from choreo.declare.join import Join
from choreo.declare.story import Story
from choreo.declare.subscription import Subscription
from choreo.declare.undo import Undo
from choreo.delivery.batch import MemberDelivery
from choreo.delivery.delivery import Delivery
from choreo.delivery.join import FormerJoinDelivery, JoinDelivery
from choreo.delivery.ports import Ports
from choreo.delivery.sequential import SequentialDelivery
from choreo.delivery.signals import SIGNALS
from choreo.delivery.story import StoryDelivery
from choreo.delivery.undo import DemandedDelivery, UndoDelivery
from choreo.events.envelope import Envelope
from choreo.store.parts import is_demanded


def kind_of(subscription: Subscription) -> type[Delivery]:
    """The kind of the deliveries to this handler."""
    if isinstance(subscription, Story):
        return StoryDelivery
    if isinstance(subscription, Undo):
        return UndoDelivery
    if isinstance(subscription, Join):
        return JoinDelivery
    if subscription.batch is not None:
        return MemberDelivery
    return Delivery if subscription.sequential is None else SequentialDelivery


def kind_for(kind: type[Delivery], envelope: Envelope) -> type[Delivery]:
    """The kind of this event's delivery to a handler with this `kind_of`."""
    if kind is UndoDelivery:
        return DemandedDelivery if is_demanded(envelope) else kind
    is_single = kind in (Delivery, SequentialDelivery, MemberDelivery)
    return FormerJoinDelivery if is_single and envelope.type in SIGNALS else kind


def delivery_to(ports: Ports, subscription: Subscription, envelope: Envelope, attempt: int, **options: Any) -> Delivery:
    """
    A delivery to this handler. ``options`` are those of `Delivery`.

    Raises `EnvelopeError` when the handler can do nothing with such an event, or may not trust it.
    """
    if ports.signing is not None:
        envelope = ports.signing.checked(envelope, ports.queue_of(subscription.name))
    return kind_for(kind_of(subscription), envelope)(ports, subscription, envelope, attempt, **options)
