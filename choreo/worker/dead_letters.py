"""The task that tells a service of its dead letters."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar
from uuid import uuid4

from celery.exceptions import Reject

from choreo.broker.keys import Lease
from choreo.dead_letter import DeadLetter
from choreo.errors import DeadLetterError, StoreError
from choreo.reaction import describe
from choreo.store import Claim, Scheduled, Settlement, Verdict
from choreo.worker.failure import harmless, is_stop
from choreo.worker.outage import outlast
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)

Listener = Callable[[DeadLetter], Any]


def log_dead_letter(letter: DeadLetter) -> None:
    """What happens with a dead letter where no `@app.dead_letter` says otherwise."""
    logger.error(
        "dead letter %s: %s could not handle %s (%s: %s). `choreo dead-letters show %s` tells more.",
        letter.id,
        letter.handler,
        letter,
        letter.reason,
        letter.error,
        letter.id,
    )


class DeadLetterTask(SafeTask):
    """
    Runs on ``<service>.dead_letters``. The letter is safe in the store before, and stays there after.

    It is told once, and what the listener raises is an error in the log. A listener that ends its worker is called
    again, `Terms.max_deliveries` times at most.
    """

    abstract = True
    listener: ClassVar[Listener]

    def run(self, letter_id: str) -> str:
        try:
            return self._tell(letter_id)
        except StoreError as error:
            logger.error("%s: %s; it is held until the store is back", letter_id, error)
            with suppress(BaseException):
                outlast(self.app.store)
            raise Reject(error, requeue=True) from error

    def _tell(self, letter_id: str) -> str:
        try:
            letter = self.app.dead_letters.get(letter_id)
        except DeadLetterError:
            return "replayed or discarded meanwhile"
        lease = Lease.of(self.request.properties)
        token, receipt = (uuid4().hex, None) if lease is None else (lease.tag, lease.receipt)
        claim = Claim(self.name, f"notice:{letter.id}", token, receipt=receipt)
        begun = self.app.store.begin(claim)
        match begun.verdict:
            case Verdict.RUN:
                return self._call(letter, claim)
            case Verdict.BUSY:
                again = Scheduled(f"busy:{token}", self.app.notice(letter), begun.busy_seconds)
                self.app.store.schedule(self.name, again)
                return f"another worker is at it; looking again in {begun.busy_seconds:.1f} s"
            case Verdict.POISON:
                what = describe(type(self).listener)
                logger.error("%s ended its worker too often: it is not told of %s any more", what, letter.id)
        self.app.store.commit(claim, Settlement())
        return "told before"

    def _call(self, letter: DeadLetter, claim: Claim) -> str:
        try:
            with self.app.leases.kept(claim):
                type(self).listener(letter)
        except BaseException as error:  # the letter is kept; the worker must be, too
            if is_stop(error):
                raise
            self.app.store.commit(claim, Settlement())
            raise harmless(error) from None
        self.app.store.commit(claim, Settlement())
        return str(letter)
