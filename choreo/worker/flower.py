"""
Flower shows the queues of every service, also of one whose workers are down.

Flower asks the workers for their queues. So the backlog of a service disappeared from its page while nobody worked on
it. `celery -A shop.payment flower` gets the names from the store as well.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from choreo.errors import ChoreoError

logger = logging.getLogger(__name__)


def show_all_queues() -> None:
    """Let the views of Flower, if this is its process, also name the queues of the store."""
    views = sys.modules["flower.views"]
    asked = views.BaseHandler.get_active_queue_names
    if asked.__module__ != __name__:
        views.BaseHandler.get_active_queue_names = with_known_queues(asked)


def with_known_queues(asked: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """Return a method of Flower's views that adds the queues of the store to those that the workers named."""

    def queue_names(view: Any) -> list[str]:
        names = set(asked(view))
        try:
            names |= known_queues(view.application.capp.runtime)
        except ChoreoError as error:
            logger.warning("the queues of services that are down are not shown: %s", error)
        return sorted(names)

    return queue_names


def known_queues(runtime: Any) -> set[str]:
    """The queues of every service whose worker has ever started with this store. Raises `StoreError`."""
    return {runtime.queue_of(name) for name in runtime.store.handlers()}
