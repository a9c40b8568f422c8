"""Namesakes: other programs that run under the name of this service, with other handlers or with other code."""

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path, PurePath

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.declare.reaction import code_of
from choreo.declare.subscription import Subscription
from choreo.errors import StoreError
from choreo.events.patterns import Binding
from choreo.store.presence import Presence
from choreo.store.register import Register

logger = logging.getLogger(__name__)

#: The name of a worker's process with its program: ``payment@host/4711 /srv/payment.py 1a2b3c4d``.
_NAME = re.compile(r"\S+ (?P<file>.+) (?P<code>[0-9a-f]{8})")


def program_of(subscriptions: Sequence[Subscription]) -> str:
    """The file that declares the handlers, and a digest of the code; "" if there is none."""
    files = [file for subscription in subscriptions if (file := _file_of(subscription))]
    return f"{files[0]} {_digest(files)}" if files else ""


def _file_of(subscription: Subscription) -> str:
    module = sys.modules.get(code_of(subscription.reaction.function).__module__)
    return str(getattr(module, "__file__", None) or "")


def _digest(files: Sequence[str]) -> str:
    digest = sha1(usedforsecurity=False)
    for file in dict.fromkeys(files):
        with suppress(OSError):  # it is in a zip file
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:8]


def warn_of_namesakes(
    worker: str, declared: Iterable[Binding], description: ServiceDescription, register: Register
) -> None:
    """
    Log a warning if a live worker of this service declares other bindings than this one, or a handler in another way,
    or is another program.

    Two versions of a service do so during a deployment. Two programs with one name do so for ever, and take each
    other's events. The store cannot tell which it is. Versions that differ only in the fields that they read, or in the
    events that they announce, are not worth a warning: `choreo map` shows both. ``worker`` is the name of the process
    with its `program_of`.
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
        if other != worker and (theirs != mine or changed or are_apart(other, worker)):
            logger.warning(
                "two programs, or two versions of one, run as the service %s. %s%s declares %s. This worker, %s, "
                "declares %s. %sThey share the queues of their common handlers and the service's own queues, and take "
                "events from each other. During a deployment that ends with the older version. If they are two "
                "programs, give one of them another name: Service(%r)",
                service,
                other,
                _version(presence, other),
                _shown(theirs - mine, theirs == mine),
                worker,
                _shown(mine - theirs, theirs == mine),
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


def are_apart(one: str, other: str) -> bool:
    """
    True if two workers that declare the same run different code from different places.

    Another version is most often in the same place, or in one that differs in one directory: ``releases/42``. The same
    code in another place is a second deployment of it.
    """
    found, beside = _NAME.fullmatch(one), _NAME.fullmatch(other)
    if found is None or beside is None or found["code"] == beside["code"]:
        return False
    places = PurePath(found["file"]).parts, PurePath(beside["file"]).parts
    return len(places[0]) != len(places[1]) or sum(a != b for a, b in zip(*places, strict=True)) > 1


def _shown(bindings: set[Binding], same: bool) -> str:
    if same:
        return "the same handlers, with other code"
    if not bindings:
        return "nothing that the other one does not"
    listed = [f"{queue} ({pattern})" for queue, pattern in sorted(bindings)]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{', '.join(listed[:5])}{more}, which the other one does not"
