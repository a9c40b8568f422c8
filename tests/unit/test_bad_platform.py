"""`choreo check` finds every mistake of tests/bad_platform, in its line, and none in handlers/."""

import re
from pathlib import Path

import pytest

from choreo.check.checking import check
from choreo.findings import Finding

ROOT = Path(__file__).parents[2]
BAD = ROOT / "tests" / "bad_platform"
#: The mistakes that beginners of choreography make, and the rules that find them.
GOTCHAS = {
    "publishing commands disguised as events": {"CH101", "CH102"},
    "no dead letter handling": {"CH601", "CH602"},
    "implicit ordering assumptions": {"CH501"},
    "event schema coupling": {"CH701"},
    "no event versioning": {"CH703", "CH704", "CH705"},
    "event spaghetti": {"CH401"},
    "compensation that nobody thought of": {"CH603"},
}


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return check(["tests.bad_platform"], ROOT)


def expected() -> set[tuple[str, int, str]]:
    """The file, the line and the code of each comment ``finds CH101 CH102``."""
    return {
        (f"tests/bad_platform/{file.name}", number, code)
        for file in BAD.glob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for comment in re.findall(r"# finds (.*)", line)
        for code in comment.split()
    }


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_each_mistake_of_the_bad_platform_is_found_in_its_line_and_nothing_else(found: list[Finding]) -> None:
    assert {(one.file, one.line, one.rule) for one in found} == expected()


@pytest.mark.parametrize("mistake", GOTCHAS)
def test_each_mistake_of_beginners_is_found(found: list[Finding], mistake: str) -> None:
    assert GOTCHAS[mistake] <= {one.rule for one in found}


def test_each_finding_names_a_way_out(found: list[Finding]) -> None:
    assert all(one.fix and one.subject for one in found)


def test_nothing_is_found_in_the_reference_platform() -> None:
    assert check(["handlers"], ROOT) == []
