"""The lineage of a run: the run that announced its event, and the first run of that line."""

from collections.abc import Mapping
from typing import Any, NamedTuple

#: The longest id that is taken from a message of another program.
_LONGEST = 255


class Lineage(NamedTuple):
    """
    Celery's ids of the task that announced an event. Flower links a run to them.

    Both are None if no task did: a web application or a script. The run is then the root itself.
    """

    #: The task id of the first task of the line.
    root_id: str | None = None
    #: The task id of the task that announced the event.
    parent_id: str | None = None


#: The lineage of an event that no task announced.
NO_LINEAGE = Lineage()


def lineage_of(headers: Mapping[str, Any]) -> Lineage:
    """The lineage in the headers of a message. A value that is no id, in a message of another program, is left out."""
    root, parent = headers.get("root_id"), headers.get("parent_id")
    if root is None and parent is None:
        return NO_LINEAGE
    return Lineage(_checked(root), _checked(parent))


def _checked(value: Any) -> str | None:
    # A text with half a surrogate pair is not printable.
    return value if type(value) is str and 0 < len(value) <= _LONGEST and value.isprintable() else None
