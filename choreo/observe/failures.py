"""The dead letters of a handler, grouped by their error. Reads a bounded number of them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from choreo.observe.handlers import NEW
from choreo.printing import one_line
from choreo.store.port import Store

#: The most dead letters of one handler that are read: the newest ones.
MOST_READ = 500
#: The same for the error of the new ones, which `choreo top` reads every two seconds.
MOST_NEW = 100
#: The most groups of one handler that are told. The letters of all others are one group, without an error.
MOST_GROUPS = 5
#: The most words and characters of an error that are told.
WORDS, LONGEST = 8, 72


@dataclass(frozen=True)
class Failure:
    """The dead letters of one handler that have the same error."""

    #: The type of the exception, and the first words of its text; "" for letters with various errors.
    error: str
    count: int
    #: When the first of them was made, in seconds since 1970 by the store's clock. None: unknown.
    since: float | None


def failures(store: Store, handler: str, count: int, oldest: float | None) -> list[Failure]:
    """
    Its ``count`` dead letters, the most frequent error first; then those that were not read, and rare errors.

    Errors are the same if their first words are, up to words with a digit in them. ``oldest`` is the time of the first
    letter. Raises `StoreError`.
    """
    letters = store.newest_letters(handler, MOST_READ)
    groups = grouped(letters)
    told, rare = groups[:MOST_GROUPS], groups[MOST_GROUPS:]
    unread = max(count - len(letters), 0) if len(letters) == MOST_READ else 0
    times = [one.since for one in rare if one.since is not None] + ([oldest] if unread and oldest is not None else [])
    others = unread + sum(one.count for one in rare)
    return [*told, *([Failure("", others, min(times, default=None))] if others else [])]


def newest_error(store: Store, handler: str, now: float) -> str:
    """The most frequent error of its letters of the last ten minutes; "" if there is none. Raises `StoreError`."""
    recent = grouped((at, text) for at, text in store.newest_letters(handler, MOST_NEW) if at > now - NEW)
    return f"{recent[0].error}{', and others' if len(recent) > 1 else ''}" if recent else ""


def grouped(letters: Iterable[tuple[float, str]]) -> list[Failure]:
    """Letters with their times, oldest first, as groups: the most frequent error first."""
    groups: dict[str, Failure] = {}
    for at, text in letters:
        error = _error_of(text)
        key = " ".join(_masked(error.split()[:WORDS]))
        known = groups.get(key) or Failure(_short(error), 0, at)
        groups[key] = replace(known, count=known.count + 1)
    return sorted(groups.values(), key=lambda one: -one.count)


def _error_of(text: str) -> str:
    # Only the error is needed: the events of a letter need not be readable.
    try:
        error = str(json.loads(text)["error"])
    except (ValueError, TypeError, KeyError):
        return "a dead letter that this version cannot read"
    return one_line(error) or "no error is known"


def _masked(words: Iterable[str]) -> Iterator[str]:
    """The words, without those that name one order or one card."""
    return ("#" if any(char.isdigit() for char in word) else word for word in words)


def _short(error: str) -> str:
    words = error.split()
    text = " ".join(words[:WORDS])
    is_cut = len(words) > WORDS or len(text) > LONGEST
    return f"{text[:LONGEST]} ..." if is_cut else text
