"""The task that receives the notices of a service's dead letters."""

import logging
import time
from contextlib import suppress
from typing import ClassVar

from celery.exceptions import Reject

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.queue import STORE_PAUSE
from choreo.delivery.notice import Listener, NoticeDelivery
from choreo.errors import DeadLetterError, StoreError
from choreo.printing import one_line
from choreo.worker.outage import outlast
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

        Raises `Reject` while the store is away, after holding the notice: see `choreo.worker.outage`. If the store is
        well, and refuses what this notice needs, the notice comes again `Terms.max_deliveries` times. The letter stays
        where it is.
        """
        runtime = self.app.runtime
        try:
            try:
                letter = runtime.dead_letters.get(letter_id)
            except DeadLetterError:
                return "replayed or discarded meanwhile"
            return NoticeDelivery(runtime, type(self).listener, letter).live()
        except StoreError as error:
            if error.is_outage:
                logger.error("%s: %s; it is held until the store is back", one_line(letter_id), error)
                with suppress(BaseException):
                    outlast(runtime.store)
                raise Reject(error, requeue=UNCOUNTED) from error
            if self._is_given_up(letter_id):
                logger.error("%s: %s; this dead letter is reported no more", one_line(letter_id), error)
                raise
            with suppress(BaseException):
                time.sleep(STORE_PAUSE)
            raise Reject(error, requeue=True) from error

    def _is_given_up(self, letter_id: str) -> bool:
        """Count that the store refused what a notice needs. True if that was too often."""
        runtime = self.app.runtime
        with suppress(Exception):  # it is counted the next time
            return bool(runtime.store.returned(self.name, letter_id) >= runtime.terms.max_deliveries)
        return False
