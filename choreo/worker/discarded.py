"""A line in the log for each ordinary task that Celery discards. (No event is: see `choreo.worker.request`.)"""

import logging
from typing import Any

from celery.signals import task_revoked

from choreo.delivery.ending import signal_in_words
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)


def warn_of_discarded() -> None:
    """Log at WARNING from now on. Celery logs it at INFO, below its default level."""
    task_revoked.connect(_warn, weak=False, dispatch_uid=__name__)


def _warn(sender: Any, request: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
    if isinstance(sender, SafeTask):
        return
    number = abs(int(signum or 0))
    why = "it has expired" if expired else "it was revoked"
    if terminated:
        why = f"it was terminated with {signal_in_words(number)}" if number else "it was terminated"
    logger.warning("task %s[%s] is discarded: %s", sender.name, request.id, why)
