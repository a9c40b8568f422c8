"""Namesakes: other programs that run under the name of this service, and declare other handlers."""

import logging
from collections.abc import Iterable

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.errors import StoreError
from choreo.events.patterns import Binding
from choreo.store.presence import Presence
from choreo.store.register import Register

logger = logging.getLogger(__name__)


def warn_of_namesakes(
    worker: str, declared: Iterable[Binding], description: ServiceDescription, register: Register
) -> None:
    """
    Log a warning if a live worker of this service declares other bindings than this one, or a handler in another way.

    Two versions of a service do so during a deployment. Two programs with one name do so for ever, and take each
    other's events. The store cannot tell which it is. Versions that differ only in the fields that they read, or in the
    events that they announce, are not worth a warning: `choreo map` shows both.
    """
    service, mine = description.service, set(declared)
    try:
        others, presence = register.declared(service), register.presence(service)
    except StoreError as error:
        logger.warning("%s cannot look for other programs of its name: %s", service, error)
        return
    for other, bindings in sorted(others.items()):
        theirs = set(bindings)
        changed = [] if other == worker else changed_handlers(description, described_by(presence, other))
        if other != worker and (theirs != mine or changed):
            logger.warning(
                "two programs, or two versions of one, run as the service %s. %s%s declares %s. This worker, %s, "
                "declares %s. %sThey share the queues of their common handlers and the service's own queues, and take "
                "events from each other. During a deployment that ends with the older version. If they are two "
                "programs, give one of them another name: Service(%r)",
                service,
                other,
                _version(presence, other),
                _shown(theirs - mine),
                worker,
                _shown(mine - theirs),
                f"They declare {', '.join(changed)} in different ways. " if changed else "",
                f"{service}_2",
            )
            return


def described_by(presence: Presence, program: str) -> ServiceDescription | None:
    """What this live worker declares; None if that is not known."""
    digests = [one.digest for one in presence.workers if one.name == program]
    try:
        return ServiceDescription.from_json(presence.descriptions[digests[0]])
    except (IndexError, KeyError, ValueError):
        return None


def changed_handlers(one: ServiceDescription, other: ServiceDescription | None) -> list[str]:
    """The handlers that both declare, and not in the same way: one as a join, say, or with other parts."""
    theirs = {} if other is None else {handler.name: handler for handler in other.handlers}
    return [handler.name for handler in one.handlers if _differs(handler, theirs.get(handler.name))]


def _differs(one: HandlerDescription, other: HandlerDescription | None) -> bool:
    return other is not None and one.shape != other.shape


def _version(presence: Presence, program: str) -> str:
    versions = [one.version for one in presence.workers if one.name == program and one.version]
    return f" (version {versions[0]})" if versions else ""


def _shown(bindings: set[Binding]) -> str:
    if not bindings:
        return "nothing that the other one does not"
    listed = [f"{queue} ({pattern})" for queue, pattern in sorted(bindings)]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{', '.join(listed[:5])}{more}, which the other one does not"
