"""The hint for a name that does not exist."""

import pytest

from choreo.guesses import hint


@pytest.mark.parametrize(
    ("name", "known", "otherwise", "said"),
    [
        ("retires", ["name", "retry"], "it takes", "did you mean retry?"),
        ("retires", ["name", "retry"], "Known are:", "Did you mean retry?"),
        ("colour", ["name", "retry"], "it takes", "it takes name, retry."),
        ("colour", [], "Known are:", "Known are: none."),
        ("colour", ["name"], "docs/contracts.md lists them.", "docs/contracts.md lists them."),
    ],
)
def test_a_hint_is_the_nearest_name_or_what_there_is(name: str, known: list[str], otherwise: str, said: str) -> None:
    assert hint(name, known, otherwise) == said
