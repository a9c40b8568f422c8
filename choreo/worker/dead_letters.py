"""The task that tells a service of its dead letters."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from celery import Task

from choreo.dead_letter import DeadLetter
from choreo.errors import DeadLetterError
from choreo.worker.failure import harmless, is_stop

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


class DeadLetterTask(Task):
    """Runs on ``<service>.dead_letters``. The letter is safe in the store before, and stays there after."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True
    listener: ClassVar[Listener]

    def run(self, letter_id: str) -> str:
        try:
            letter = self.app.dead_letters.get(letter_id)
        except DeadLetterError:
            return "replayed or discarded meanwhile"
        try:
            type(self).listener(letter)
        except BaseException as error:  # the letter is kept; the worker must be, too
            if is_stop(error):
                raise
            raise harmless(error) from None
        return str(letter)
