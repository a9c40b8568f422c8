"""`choreo check`: its exit codes, its formats, and what it says of code that cannot be imported."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from choreo.check.rules import RULES
from choreo.cli import choreo

GOOD = """from choreo import DeadLetter, Event, Service

app = Service("{name}", config=None)


class BillSent(Event):
    total_cents: int


@app.on(BillSent)
def pay(bill: BillSent) -> None: ...


@app.dead_letter
def tell(letter: DeadLetter) -> None: ...


def send() -> None:
    app.publish(BillSent(total_cents=1), "B-1")
"""

Package = Callable[[dict[str, str]], str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Package:
    """Writes a package of these files, and returns its name. The current directory holds it."""
    name = f"checked_{abs(hash(request.node.nodeid))}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(files: dict[str, str]) -> str:
        (tmp_path / name).mkdir()
        for file, text in {"__init__": "", **files}.items():
            (tmp_path / name / f"{file}.py").write_text(text.replace("{name}", name))
        return name

    return write


def run(*args: str) -> Result:
    before = set(sys.modules)
    try:
        return CliRunner().invoke(choreo, ["check", *args])
    finally:
        for module in [name for name in sys.modules if name.startswith("checked_") and name not in before]:
            del sys.modules[module]


def test_a_good_package_is_found_in_the_directory_and_the_exit_code_is_0(package: Package) -> None:
    package({"bank": GOOD})

    done = run()

    assert (done.exit_code, done.output) == (0, "Nothing was found.\n")


def test_an_error_is_printed_with_its_place_and_the_exit_code_is_1(package: Package) -> None:
    name = package({"bank": GOOD.replace("def pay", "def pay_it").replace("@app.dead_letter", "")})

    done = run(name)

    assert done.exit_code == 1
    assert f"{name}/bank.py:3 · [CH601]" in " ".join(done.output.split())
    assert "1 found. `choreo check --explain CH601` says why." in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_a_warning_fails_only_if_it_is_asked_for(package: Package) -> None:
    name = package({"bank": GOOD.replace("def pay(bill: BillSent) -> None: ...", "def pay(bill: BillSent): ...")})

    assert run(name).exit_code == 0
    assert run(name, "--fail-on", "warning").exit_code == 1


def test_the_findings_are_printed_in_the_formats_of_other_tools(package: Package) -> None:
    name = package({"bank": GOOD.replace("@app.dead_letter", "")})

    (line,) = run(name, "--format", "json").output.splitlines()
    annotation = run(name, "--format", "github").output
    report = json.loads(run(name, "--format", "sarif").output)

    assert (json.loads(line)["rule"], json.loads(line)["file"], json.loads(line)["line"]) == (
        "CH601",
        f"{name}/bank.py",
        3,
    )
    assert annotation.startswith(f"::error file={name}/bank.py,line=3,title=choreo check%3A CH601::")
    assert {rule["id"] for rule in report["runs"][0]["tool"]["driver"]["rules"]} == set(RULES)


def test_a_command_that_is_refused_at_import_is_a_finding_in_its_line(package: Package) -> None:
    bad = GOOD.replace("class BillSent(Event):", "class PayBill(Event):\n    pass\n\n\nclass BillSent(Event):")
    name = package(
        {"bank": bad, "shop": GOOD.replace('"{name}"', '"shop"').replace("bill: BillSent) -> None", "bill: BillSent)")}
    )

    done = run(name, "--format", "json")

    refused, other = (json.loads(line) for line in done.output.splitlines())
    assert done.exit_code == 1
    assert (refused["rule"], refused["file"], refused["line"]) == ("CH101", f"{name}/bank.py", 6)
    assert refused["fix"] == "name it BillPaid"
    # The rest is checked all the same.
    assert (other["rule"], other["subject"]) == ("CH802", "shop.pay")


@pytest.mark.parametrize(("name", "code"), [("PayBill", "CH101"), ("Paid", "CH001")])
def test_events_of_a_module_without_handlers_are_checked_too(package: Package, name: str, code: str) -> None:
    package({"bank": GOOD, "events": f"from choreo import Event\n\n\nclass {name}(Event):\n    pass\n"})

    (line,) = run("--format", "json").output.splitlines()

    assert (json.loads(line)["rule"], json.loads(line)["line"]) == (code, 4)


def test_another_refusal_at_import_is_a_finding_too(package: Package) -> None:
    name = package({"bank": GOOD.replace("bill: BillSent", "bill")})

    (line,) = run(name, "--format", "json").output.splitlines()

    finding = json.loads(line)
    assert (finding["rule"], finding["subject"], finding["line"]) == ("CH001", f"{name}.bank", 10)
    assert "has no annotation" in finding["text"]


@pytest.mark.parametrize(
    ("files", "target", "fault"),
    [
        ({"bank": GOOD + "1 / 0\n"}, "{name}", "ZeroDivisionError: division by zero ({name}/bank.py:20)"),
        ({"bank": "import no_such_module\n" + GOOD}, "{name}", "No module named 'no_such_module'"),
        ({"bank": "x = 1\n"}, "{name}", "defines a service"),
        ({"bank": GOOD}, "nowhere", "There is no package or module 'nowhere' here."),
        ({"bank": GOOD}, "{name}.bank:ap", "has no ap."),
    ],
)
def test_what_cannot_be_checked_is_said_without_a_traceback_and_the_exit_code_is_2(
    package: Package, files: dict[str, str], target: str, fault: str
) -> None:
    name = package(files)

    done = run(target.replace("{name}", name))

    assert done.exit_code == 2
    assert fault.replace("{name}", name) in " ".join(done.output.split())


def test_a_wrong_setting_ends_the_check_with_2(package: Package, tmp_path: Path) -> None:
    name = package({"bank": GOOD})
    (tmp_path / "pyproject.toml").write_text("[tool.choreo.check]\ndepht = 3\n")

    done = run(name)

    assert done.exit_code == 2
    assert "Did you mean depth?" in done.output


def test_one_service_of_a_platform_is_not_judged_by_what_the_others_do(package: Package) -> None:
    name = package({"bank": GOOD.replace('def send() -> None:\n    app.publish(BillSent(total_cents=1), "B-1")\n', "")})

    assert run(name).exit_code == 1
    assert run(f"{name}.bank").exit_code == 0
    assert run(f"{name}.bank:app").exit_code == 0


def test_a_package_without_an_init_below_another_is_checked_too(package: Package, tmp_path: Path) -> None:
    name = package({})
    (tmp_path / name / "inner").mkdir()
    (tmp_path / name / "inner" / "bank.py").write_text(GOOD.replace("{name}", "bank"))

    assert run(f"{name}.inner").output == "Nothing was found.\n"


def test_a_contract_file_that_says_something_else_is_found(package: Package, tmp_path: Path) -> None:
    name = package({"bank": GOOD})
    written = CliRunner().invoke(choreo, ["events", "write", "--package", name])
    assert written.exit_code == 0, written.output
    assert run(name).exit_code == 0

    file = tmp_path / "contracts" / "events" / "bill.sent.v1.json"
    file.write_text(file.read_text().replace("total_cents", "total"))
    (line,) = run(name, "--format", "json").output.splitlines()
    assert (json.loads(line)["rule"], json.loads(line)["subject"]) == ("CH710", "bill.sent")
    assert "says something else" in json.loads(line)["text"]

    file.unlink()
    (line,) = run(name, "--format", "json").output.splitlines()
    assert "there is no contract file" in json.loads(line)["text"]


def test_the_rules_are_listed_and_explained() -> None:
    listed = run("--list")
    explained = run("--explain", "ch501")

    assert [line.split()[0] for line in listed.output.splitlines()] == list(RULES)
    assert max(map(len, [*listed.output.splitlines(), *explained.output.splitlines()])) <= 80
    assert "Why: Events of different types arrive in any order" in explained.output
    assert run("--explain", "CH999").exit_code == 2
