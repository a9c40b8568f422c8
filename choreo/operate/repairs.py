"""The log of repairs: who has changed what on a platform, when and why."""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from getpass import getuser
from socket import gethostname

from choreo.errors import StoreError
from choreo.store.port import Store

logger = logging.getLogger(__name__)

#: The most characters of a reason, and of each other text.
MOST_REASON, MOST_TEXT = 1000, 200


@dataclass(frozen=True, slots=True)
class Repair:
    """One change that a person made."""

    #: When, in UTC, by the store's clock.
    at: datetime
    #: Who: by default the user and host of the process.
    who: str
    #: One word in the past tense, such as "replayed".
    action: str
    #: A handler, a group of dead letters, or an id.
    target: str
    #: How many dead letters, messages or events it changed.
    count: int = 1
    #: Why, in the words of that person; "" if nothing was said.
    reason: str = ""

    def to_json(self) -> str:
        """Return the repair as one JSON object."""
        return json.dumps(asdict(self) | {"at": self.at.isoformat(timespec="milliseconds")})


class Repairs:
    """The log of repairs of one platform. The store keeps the newest `choreo.store.repairs.MOST_REPAIRS`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, action: str, target: str, count: int = 1, reason: str = "", who: str = "") -> None:
        """
        Log a repair that was made: see `Repair`. ``who`` is the user and host of this process if it is "".

        If the store does not take it, that is logged as a warning: the repair itself has happened.
        """
        given = {"who": who or this_person(), "action": action, "target": target}
        short = {name: text[:MOST_TEXT] for name, text in given.items()}
        record = short | {"count": count, "reason": reason[:MOST_REASON]}
        try:
            self._store.note_repair(json.dumps(record))
        except StoreError as error:
            logger.warning("the log of repairs does not tell that %s was %s: %s", target, action, error)

    def recent(self, limit: int = 50) -> list[Repair]:
        """Return the newest ``limit`` repairs, newest first. Raises `StoreError`."""
        return list(_readable(self._store.repairs(limit)))


def this_person() -> str:
    """The user and the host of this process, as ``user@host``."""
    user = "unknown"
    with suppress(OSError, KeyError, ImportError):  # in a container, a user may have a number and no name
        user = getuser()
    return f"{user}@{gethostname()}"


def _readable(found: list[tuple[float, str]]) -> Iterator[Repair]:
    """The repairs in these entries. One that another version wrote in another form is left out."""
    for at, text in found:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            record = json.loads(text)
            texts = {name: str(record[name]) for name in ("who", "action", "target", "reason")}
            yield Repair(datetime.fromtimestamp(at, UTC), count=int(record["count"]), **texts)
