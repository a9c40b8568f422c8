"""The task that receives the notices of a service's dead letters."""

import logging
from contextlib import suppress
from typing import ClassVar

from celery.exceptions import Reject
from celery.exceptions import Retry as CeleryRetry

from choreo.delivery.failure import RetryScheduledError, is_ending
from choreo.delivery.listener import Listener, NoticeDelivery
from choreo.errors import DeadLetterError, StoreError
from choreo.printing import one_line
from choreo.store.claims import Claim
from choreo.worker.logs import told
from choreo.worker.outage import reject_after_outage, reject_after_pause
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)


class DeadLetterTask(SafeTask):
    """
    The task ``<service>.dead_letters``: one `NoticeDelivery` for each message.

    ``listener`` is the function declared with `@app.dead_letter`. One subclass is made when the service is finalized.
    """

    abstract = True
    listener: ClassVar[Listener]

    def run(self, letter_id: str) -> str:
        """
        Call the listener with one dead letter. The answer is for people who read logs and Flower.

        Raises Celery's `Retry` if the listener has failed and is called again later, the listener's error if it is not,
        and `Reject` while the store is away, after holding the notice: see `choreo.worker.outage`. If the store is
        well, and refuses what this notice needs, the notice comes again `Terms.max_deliveries` times. The letter stays
        where it is.
        """
        delivery = None
        try:
            delivery = self.delivery(letter_id)
            return delivery.live() if delivery else "replayed or discarded meanwhile"
        except RetryScheduledError as retry:
            raise CeleryRetry(retry.reason, retry.error, retry.seconds) from retry.error
        except StoreError as error:
            if delivery is not None and delivery.settled:
                raise  # the listener's own error
            if error.is_outage:
                told(self.request.id)
                raise reject_after_outage(one_line(letter_id), self.app.runtime.store, error) from error
            if self._is_given_up(letter_id):
                logger.error("%s: %s; this dead letter is reported no more", one_line(letter_id), error)
                raise
            raise reject_after_pause(error) from error
        except Exception as error:
            if is_ending() and not (delivery and delivery.settled):
                # Celery would ack the notice. The error comes from a cleanup while the process is ended.
                raise Reject(error, requeue=True) from error
            raise

    def delivery(self, letter_id: str, retries: int | None = None) -> NoticeDelivery | None:
        """The delivery of a notice; None if the letter is gone. ``retries``: None takes those of the running task."""
        runtime = self.app.runtime
        try:
            letter = runtime.dead_letters.get(letter_id)
        except DeadLetterError:
            return None
        attempt = (self.request.retries if retries is None else retries) + 1
        return NoticeDelivery(runtime, type(self).listener, letter, attempt)

    def claim_of(self, letter_id: str, retries: int) -> Claim | None:
        """The claim of a run with these arguments; None if there is none."""
        delivery = self.delivery(letter_id, retries)
        return delivery.claim if delivery else None

    def _is_given_up(self, letter_id: str) -> bool:
        """Count that the store refused what a notice needs. True if that was too often."""
        with suppress(Exception):  # it is counted the next time
            return self.returned_too_often(letter_id) > 0
        return False
