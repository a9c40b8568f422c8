"""Findings are accepted with a reason: by a comment at the line, or in pyproject.toml."""

from pathlib import Path

import pytest

from choreo import Event
from choreo.check.checking import judge
from choreo.check.code import Code
from choreo.check.platform import Platform
from choreo.check.settings import Allowance, CheckError, Settings
from choreo.findings import Finding
from tests.unit.events import OrderPlaced
from tests.unit.stage import service

#: A module with one finding, CH802, in the line of its `def`.
MODULE = '''from choreo import DeadLetter, Service
from tests.unit.events import OrderPlaced

app = Service("bank", config=None, announces=[OrderPlaced])

{above}
@app.on(OrderPlaced){beside}
def charge(
    order: OrderPlaced,
):{behind}
    print(order)  # choreo: allows nothing here


@app.dead_letter
def tell(letter: DeadLetter) -> None:
    """# choreo: allow CH802 because this is no comment"""
'''


@pytest.fixture(autouse=True)
def without_contract_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(tmp_path: Path, settings: Settings | None = None, **comments: str) -> list[tuple[str, str, str]]:
    """The code, the subject and the accepted reason of each finding in the module."""
    return [(one.rule, one.subject, one.allowed) for one in findings(tmp_path, settings, **comments)]


def findings(tmp_path: Path, settings: Settings | None = None, **comments: str) -> list[Finding]:
    text = MODULE.format(**{"above": "", "beside": "", "behind": ""} | comments)
    file = tmp_path / "bank.py"
    file.write_text(text)
    space: dict[str, object] = {"__name__": "bank"}
    exec(compile(text, str(file), "exec"), space)
    app = space["app"]
    return judge(Platform((app,), (app.describe(),), (OrderPlaced,), settings or Settings(), Code(), (str(file),)))  # type: ignore[attr-defined, arg-type]


def test_without_an_allowance_the_finding_counts(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path)

    assert (finding.rule, finding.subject, finding.line) == ("CH802", "bank.charge", 8)
    assert finding.fails("warning")


@pytest.mark.parametrize("place", ["above", "beside", "behind"])
def test_a_comment_with_a_reason_accepts_the_finding_of_its_declaration(tmp_path: Path, place: str) -> None:
    (finding,) = findings(
        tmp_path, **{place: "  # choreo: allow CH802 because it is a toy".lstrip("  " * (place == "above"))}
    )

    assert finding.allowed == "it is a toy"
    assert not finding.fails("note")


def test_one_comment_may_name_several_codes(tmp_path: Path) -> None:
    comment = "# choreo: allow CH803, CH802 because it is a toy"

    assert found(tmp_path, above=comment) == [
        ("CH003", "allow CH803", ""),
        ("CH802", "bank.charge", "it is a toy"),
    ]


def test_a_comment_without_a_reason_accepts_nothing_and_is_a_finding_itself(tmp_path: Path) -> None:
    assert found(tmp_path, above="# choreo: allow CH802") == [
        ("CH002", "allow CH802", ""),
        ("CH802", "bank.charge", ""),
    ]


def test_a_comment_that_names_no_rule_is_a_finding(tmp_path: Path) -> None:
    assert ("CH004", "allow CH999", "") in found(tmp_path, above="# choreo: allow CH999 because why not")


class BillPaid(Event):  # choreo: allow CH709 because it is a test
    password: str = ""


def test_a_comment_in_the_file_of_an_event_counts_if_only_a_service_is_checked() -> None:
    (finding,) = judge(Platform((), (), (BillPaid,)))

    assert (finding.rule, finding.allowed) == ("CH709", "it is a test")


def allowing(code: str, where: str, reason: str = "it is a toy") -> Settings:
    return Settings(allow=(Allowance(code, where, reason),))


@pytest.mark.parametrize("where", ["bank.charge", "bank.*", "ba*.py"])
def test_the_settings_accept_a_finding_by_its_subject_or_its_file(tmp_path: Path, where: str) -> None:
    assert found(tmp_path, allowing("CH802", where)) == [("CH802", "bank.charge", "it is a toy")]


def test_an_allowance_of_the_settings_that_fits_nothing_or_has_no_reason_is_a_finding(tmp_path: Path) -> None:
    idle = found(tmp_path, allowing("CH802", "shop.*"))
    silent = found(tmp_path, allowing("CH802", "bank.*", ""))

    assert ("CH003", "allow CH802 where shop.*", "") in idle
    assert ("CH802", "bank.charge", "") in idle
    assert ("CH002", "allow CH802 where bank.*", "") in silent
    assert ("CH802", "bank.charge", "") in silent


def test_of_a_service_that_is_checked_alone_an_idle_allowance_is_not_found() -> None:
    app = service("bank")
    platform = Platform((app,), (app.describe(),), (), allowing("CH201", "order.placed"), is_whole=False)

    assert judge(platform) == []


def read(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "pyproject.toml").write_text(f"[tool.choreo.check]\n{text}\n")
    (tmp_path / "below").mkdir()
    return Settings.read(tmp_path / "below")


def test_the_settings_are_those_of_the_nearest_pyproject(tmp_path: Path) -> None:
    text = 'depth = 3\nheard_elsewhere = ["order.*"]\nallow = [{code="CH201", where="a.b", reason="c"}]'

    settings = read(tmp_path, text)

    assert (settings.depth, settings.heard_elsewhere) == (3, ("order.*",))
    assert settings.allow == (Allowance("CH201", "a.b", "c"),)
    assert settings.file == str(tmp_path / "pyproject.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("dept = 3", "dept: there is no such setting. Did you mean depth?"),
        ("depth = 0", "depth: 0 is not a number from 1"),
        ("depth = true", "depth: True is not a number from 1"),
        ('heard_elsewhere = "order.*"', "heard_elsewhere: 'order.*' is not a list of texts"),
        ("allow = 3", "allow: 3 is not a list"),
        ('allow = [{code="CH201"}]', "is not like"),
        ('allow = [{code="CH201", where="a", because="b"}]', "is not like"),
        ("depth = ", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(CheckError, match=r".*") as caught:
        read(tmp_path, text)

    assert fault in str(caught.value)
