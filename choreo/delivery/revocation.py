"""Revocations: a run that Celery would discard becomes a dead letter."""

from choreo.delivery.delivery import DONE, Delivery
from choreo.delivery.ending import End
from choreo.store.claims import Claim, Verdict


class Revocation:
    """
    Takes the place of a delivery whose run was revoked: its event becomes a dead letter, and its handler is not called.

    ``why`` is the error of the dead letter.
    """

    def __init__(self, delivery: Delivery, why: str) -> None:
        self._delivery, self._why = delivery, why

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
        """Record the dead letter. Returns the outcome in words. Raises `StoreError` if nothing could be recorded."""
        delivery, why = self._delivery, self._why
        result = delivery.seize()
        if result.verdict is Verdict.BUSY:
            return delivery.postpone(result.busy_seconds)
        if result.verdict is Verdict.DONE:
            return DONE
        last = delivery.last_end() if result.deliveries > 1 else None
        return delivery.revoke(result, last.text if last and last.end is End.TERMINATED else why)
