"""Namesakes: other programs that run under the name of this service, and declare other handlers."""

import logging
import sys
from collections.abc import Iterable, Sequence

from choreo.declare.reaction import code_of
from choreo.declare.subscription import Subscription
from choreo.errors import StoreError
from choreo.events.patterns import Binding
from choreo.store.register import Register

logger = logging.getLogger(__name__)


def program_of(subscriptions: Sequence[Subscription]) -> str:
    """The file that declares the handlers, for people; "" if there is none."""
    for subscription in subscriptions:
        module = sys.modules.get(code_of(subscription.reaction.function).__module__)
        if file := getattr(module, "__file__", None):
            return str(file)
    return ""


def warn_of_namesakes(service: str, worker: str, declared: Iterable[Binding], register: Register) -> None:
    """
    Log a warning if a live worker of this service declares other bindings than this one.

    Two versions of a service do so during a deployment. Two programs with one name do so for ever, and take each
    other's events. The store cannot tell which it is.
    """
    mine = set(declared)
    try:
        others = register.declared(service)
    except StoreError as error:
        logger.warning("%s cannot look for other programs of its name: %s", service, error)
        return
    for other, bindings in sorted(others.items()):
        theirs = set(bindings)
        if other != worker and theirs != mine:
            logger.warning(
                "two programs, or two versions of one, run as the service %s. %s declares %s. This worker, %s, "
                "declares %s. They share the queues of their common handlers and the service's own queues, and take "
                "events from each other. During a deployment that ends with the older version. If they are two "
                "programs, give one of them another name: Service(%r)",
                service,
                other,
                _shown(theirs - mine),
                worker,
                _shown(mine - theirs),
                f"{service}_2",
            )
            return


def _shown(bindings: set[Binding]) -> str:
    if not bindings:
        return "nothing that the other one does not"
    listed = [f"{queue} ({pattern})" for queue, pattern in sorted(bindings)]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{', '.join(listed[:5])}{more}, which the other one does not"
