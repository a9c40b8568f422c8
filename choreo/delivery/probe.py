"""Probes: one event of a handler that its breaker has paused, to see whether the handler works again."""

from choreo.delivery.breaker import OutageBreaker
from choreo.delivery.delivery import HOPELESS, Delivery
from choreo.delivery.failure import RetryScheduledError
from choreo.delivery.stand_in import StandIn


class Probe(StandIn):
    """
    Takes the place of a delivery that its worker let through as a probe. ``token`` is that of the probe.

    A handler that succeeds, or answers with an error that is never retried, closes the breaker.
    """

    def __init__(self, delivery: Delivery, token: str) -> None:
        super().__init__(delivery)
        self._token = token
        delivery.probe = token
        self._breaker = OutageBreaker(delivery.ports, delivery.subscription, delivery.envelope)

    def live(self) -> str:
        """Handle the event as `Delivery.live` does, and close the breaker if the handler works."""
        try:
            outcome = self._delivery.live()
        except RetryScheduledError as retry:
            if not self._delivery.is_held:
                self._end(retry.error)
            raise
        except BaseException as error:
            self._end(error if self._delivery.settled else None)
            raise
        self._end(None, succeeded=self._delivery.has_run)
        return outcome

    def _end(self, error: BaseException | None, *, succeeded: bool = False) -> None:
        """Close the breaker, or leave it to the next probe if the handler was not called, or could not be."""
        is_answer = error is not None and self._delivery.has_run and not isinstance(error, HOPELESS)
        if succeeded or is_answer:
            self._breaker.close(self._token)
        else:
            self._breaker.release(self._token)
