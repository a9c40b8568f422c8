"""Lists that are read a page at a time, and can be continued."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from choreo.operate.joins import PAGE

T = TypeVar("T")


def rows(page: Callable[[int, str], tuple[Sequence[T], str]], limit: int, after: str) -> Iterator[tuple[T, str]]:
    """
    Iterate over up to ``limit`` rows (0: all), each with "", and the last one with the cursor of the rest, if any.

    ``page`` is a callback: it gets a number of rows and a cursor, and returns the rows and the next cursor.
    """
    left = limit
    while True:
        found, after = page(min(left, PAGE) if limit else PAGE, after)
        left -= len(found)
        ended = not after or (limit and left <= 0)
        for number, row in enumerate(found, start=1):
            yield row, after if ended and number == len(found) else ""
        if ended:
            return
