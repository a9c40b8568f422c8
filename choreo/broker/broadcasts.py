"""Messages that are not acked: remote control, its answers, and worker events. One that cannot be read is dropped."""

import logging
from collections.abc import Callable
from typing import Any

from choreo.broker.incoming import shortened

logger = logging.getLogger(__name__)

OnMessage = Callable[[Any], Any]


def dropping(callback: OnMessage, queue: str, errors: tuple[type[BaseException], ...]) -> OnMessage:
    """
    The callback of a consumer that acks nothing, for messages of any form.

    Celery and kombu expect such messages in their own form, and any other ends the worker. The broker has forgotten the
    message already, so all that is left to do is to say so. ``errors`` are those of the connection: they pass through.
    """

    passing: tuple[type[BaseException], ...] = (*errors, MemoryError)

    def on_message(message: Any) -> Any:
        try:
            return callback(message)
        except passing:
            raise
        except Exception as error:  # it may be of any form
            logger.error("%s: a message that cannot be read is dropped: %s", queue, shortened(error))

    return on_message
