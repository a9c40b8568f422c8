"""The task that receives the notices of a service's dead letters."""

import logging
from contextlib import suppress
from typing import ClassVar

from celery.exceptions import Reject

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

        Raises `Reject` while the store is away, after holding the notice: see `choreo.worker.outage`.
        """
        runtime = self.app.runtime
        try:
            try:
                letter = runtime.dead_letters.get(letter_id)
            except DeadLetterError:
                return "replayed or discarded meanwhile"
            return NoticeDelivery(runtime, type(self).listener, letter).live()
        except StoreError as error:
            logger.error("%s: %s; it is held until the store is back", one_line(letter_id), error)
            with suppress(BaseException):
                outlast(runtime.store)
            raise Reject(error, requeue=True) from error
