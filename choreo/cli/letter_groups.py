"""The table of groups of dead letters."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from choreo.cli.folding import folded, room
from choreo.observe.figures import count
from choreo.observe.words import counted
from choreo.operate.which import Group
from choreo.printing import one_line

#: The fewest columns in which a cause can be read; else it is in a line of its own, which begins in this column.
_LEAST, _OWN = 24, 6


def rows(groups: Sequence[Group]) -> Iterator[str]:
    """The lines of a table of groups. Nothing is cut."""
    ids, names = max(5, *(len(group.id) for group in groups)), [one_line(group.handler) for group in groups]
    row = f"{{:<{ids}}}  {{:>5}}  {{:<5}}  {{:<5}}  {{:<{max(map(len, names))}}}"
    yield f"{row.format('GROUP', 'COUNT', 'FIRST', 'LAST', 'HANDLER')}  CAUSE"
    for group, name in zip(groups, names, strict=True):
        start = row.format(group.id, count(group.count), _when(group.first), _when(group.last), name)
        cause, at = one_line(group.cause), len(start) + 2
        is_beside = room(at) >= _LEAST
        yield f"{start}  {folded(cause, at)}" if is_beside else start.rstrip()
        if not is_beside:
            yield f"{'':{_OWN}}{folded(cause, _OWN)}"


def blanks(groups: Sequence[Group]) -> str:
    """What "#" means in these causes, with a space before; "" if there is none."""
    return " # stands for what differs from letter to letter." if any("#" in group.cause for group in groups) else ""


def json_of(group: Group) -> str:
    """The group as one JSON object."""
    times = {"first": group.first.isoformat(), "last": group.last.isoformat()}
    return json.dumps(asdict(group) | times)


def told(groups: Sequence[Group]) -> str:
    """Such as ``352 dead letters in 2 groups``."""
    return f"{counted(sum(group.count for group in groups), 'dead letter')} in {counted(len(groups), 'group')}"


def _when(at: datetime) -> str:
    """The time of a moment of today, or else its day."""
    return f"{at:%H:%M}" if at.date() == datetime.now(UTC).date() else f"{at:%m-%d}"
