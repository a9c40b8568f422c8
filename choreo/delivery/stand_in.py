"""Stand-ins: what a worker lives through in place of a delivery."""

from choreo.delivery.delivery import Delivery, Steps
from choreo.store.claims import Claim


class StandIn:
    """
    Takes the place of a delivery, and shows its claim and how far it came.

    A subclass says in `live` what is done with the event.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __str__(self) -> str:
        return str(self._delivery)

    @property
    def settled(self) -> bool:
        """True once the outcome is recorded."""
        return self._delivery.settled

    @property
    def is_told(self) -> bool:
        """True once the log tells of a failure for good."""
        return self._delivery.is_told

    @property
    def claim(self) -> Claim:
        """The claim of the delivery."""
        return self._delivery.claim

    def live(self) -> str:
        """Do what is done in place of `Delivery.live`. Returns and raises as that does."""
        raise NotImplementedError

    def steps(self) -> Steps:
        """As `live`: a stand-in waits for a coroutine in its thread, since stand-ins are rare."""
        return self.live()
        yield
