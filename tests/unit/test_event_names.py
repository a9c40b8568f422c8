"""How often the check of names errs, on names of public catalogues of events and of commands."""

from pathlib import Path

import pytest

from choreo.events import lexicon
from choreo.events.naming import words_of
from choreo.events.tense import is_fact

LISTS = Path(__file__).parent / "event_names"
#: The largest share of wrong answers.
WRONG = 0.02


def names(file: str) -> list[str]:
    """The names in a file, without its comments."""
    return [line for line in (LISTS / file).read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(("file", "least", "expected"), [("facts.txt", 500, True), ("commands.txt", 300, False)])
def test_nearly_every_name_of_a_catalogue_is_judged_right(file: str, least: int, expected: bool) -> None:
    given = names(file)

    wrong = [name for name in given if is_fact(words_of(name)) is not expected]

    assert len(set(given)) == len(given) >= least
    assert len(wrong) <= WRONG * len(given), f"{len(wrong)} of {len(given)} are wrong: {', '.join(wrong)}"


def test_the_dictionary_has_single_words_only() -> None:
    """It learns no name by heart."""
    words = lexicon.ORDERS | lexicon.NOUNS_TOO | lexicon.NOUNS_FIRST | lexicon.STATES | lexicon.NO_STATES

    assert not [word for word in words if not word.isalpha() or not word.islower()]
