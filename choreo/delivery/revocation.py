"""Revocations: a run that Celery would discard becomes a dead letter."""

from choreo.delivery.delivery import DONE, Delivery
from choreo.delivery.ending import End
from choreo.delivery.stand_in import StandIn
from choreo.store.claims import Verdict


class Revocation(StandIn):
    """
    Takes the place of a delivery whose run was revoked: its event becomes a dead letter, and its handler is not called.

    ``why`` is the error of the dead letter.
    """

    def __init__(self, delivery: Delivery, why: str) -> None:
        super().__init__(delivery)
        self._why = why

    def live(self) -> str:
        """Record the dead letter. Returns the outcome in words. Raises `StoreError` if nothing could be recorded."""
        delivery, why = self._delivery, self._why
        result = delivery.seize()
        if result.verdict is Verdict.BUSY:
            return delivery.postpone(result.busy_seconds)
        if result.verdict is Verdict.DONE:
            return DONE
        last = delivery.last_end() if result.deliveries > 1 else None
        return delivery.revoke(result, last.text if last and last.end is End.TERMINATED else why)
