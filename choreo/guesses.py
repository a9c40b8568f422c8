"""Hints for a name that does not exist: the one that was most likely meant, or else what there is."""

from collections.abc import Iterable
from difflib import get_close_matches


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """
    ``did you mean retry?``; or, if no known name is like it, ``otherwise``, with all known names after it.

    ``otherwise`` is ``it takes``, or a whole sentence with its point, which is returned as it is. If it begins with a
    capital, so does the question.
    """
    names = list(known)
    if guess := get_close_matches(name, names, n=1):
        return f"{'Did' if otherwise[0].isupper() else 'did'} you mean {guess[0]}?"
    return otherwise if otherwise.endswith(".") else f"{otherwise} {', '.join(names) or 'none'}."
