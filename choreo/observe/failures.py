"""Dead letters by their cause, for `choreo top` and `choreo stuck`: from the index, no letter is read."""

from collections.abc import Sequence
from operator import attrgetter

from choreo.delivery.cause import Cause
from choreo.observe.handlers import NEW
from choreo.operate.cabinet import Cabinet
from choreo.operate.which import Group, Which
from choreo.store.port import Store

#: The most groups of one handler that are told. The letters of all others are one row.
MOST_GROUPS = 5
#: The most words and characters of an error in one line of `choreo top`.
WORDS, LONGEST = 8, 72


def groups_of(store: Store, handlers: Sequence[str]) -> dict[str, list[Group]]:
    """Handler → its groups, the largest first. Letters that are not in the index are in none. Raises `StoreError`."""
    found: dict[str, list[Group]] = {handler: [] for handler in handlers}
    for group in Cabinet(store, completes=False).groups(Which(tuple(handlers))) if handlers else ():
        found[group.handler].append(group)
    return found


def newest_error(store: Store, handler: str, now: float) -> str:
    """The most frequent error of its letters of the last ten minutes; "" if none is known. Raises `StoreError`."""
    recent = store.letter_groups(handler, now - NEW)
    if not recent:
        return ""
    error = _short(_error_in(max(recent, key=attrgetter("count")).about))
    return f"{error}, and others" if len(recent) > 1 else error


def _error_in(about: str) -> str:
    """The error in the text about a group."""
    try:
        cause, reason = Cause.from_json(about)
    except ValueError:
        return "a cause that this version cannot read"
    return ": ".join(filter(None, (cause.error, cause.text))) or reason


def _short(error: str) -> str:
    words = error.split()
    text = " ".join(words[:WORDS])
    is_cut = len(words) > WORDS or len(text) > LONGEST
    return f"{text[:LONGEST]} ..." if is_cut else text
