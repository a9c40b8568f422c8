"""The task in which a service gets the notices of its dead letters."""

import logging
from contextlib import suppress
from typing import ClassVar

from celery.exceptions import Reject

from choreo.delivery.notice import Listener, NoticeDelivery
from choreo.errors import DeadLetterError, StoreError
from choreo.worker.outage import outlast
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)


class DeadLetterTask(SafeTask):
    """Runs on ``<service>.dead_letters``: one `NoticeDelivery` for each message."""

    abstract = True
    listener: ClassVar[Listener]

    def run(self, letter_id: str) -> str:
        """Tell the listener of one dead letter. The answer is for people who read logs and Flower."""
        runtime = self.app.runtime
        try:
            try:
                letter = runtime.dead_letters.get(letter_id)
            except DeadLetterError:
                return "replayed or discarded meanwhile"
            return NoticeDelivery(runtime, type(self).listener, letter).live()
        except StoreError as error:
            logger.error("%s: %s; it is held until the store is back", letter_id, error)
            with suppress(BaseException):
                outlast(runtime.store)
            raise Reject(error, requeue=True) from error
