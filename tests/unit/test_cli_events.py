"""`choreo events` and `choreo can-deploy`: files, revisions of git, formats and exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft7Validator, Draft202012Validator

from choreo.cli import choreo
from choreo.contracts.contract import ContractError
from choreo.contracts.settings import read_settings

ROOT = Path(__file__).parents[2]
ASYNCAPI = ROOT / "tests" / "schemas" / "asyncapi-3.0.0.json"

SHOP = """\
from pydantic import BaseModel

from choreo import Event, Service


class OrderPlaced(Event):
    \"\"\"A customer placed an order.\"\"\"

    customer: str
    total: int


class Spending(BaseModel):
    total: int


app = Service("loyalty", announces=[OrderPlaced])


# Not by the class: a view that does not fit the class of its handler is refused when it is declared.
@app.on("order.placed")
def award(spending: Spending) -> None: ...
"""
WITHOUT_TOTAL = SHOP.replace("    total: int\n\n\nclass", "\n\nclass").replace("    total: int", "    customer: str")

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(choreo, arguments)


@pytest.fixture
def shop(tmp_path: Path) -> Shell:
    """Runs a command in a directory with one service, under version control."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "GIT_"))}
    environment |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def shell(*command: str, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-m", *command] if command[0] == "choreo" else list(command)
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done

    (tmp_path / "shop.py").write_text(SHOP)
    shell("git", "init", "-q", "-b", "main")
    shell("git", "add", "-A")
    shell("git", "commit", "-qm", "first")
    return shell


def test_the_contract_files_of_the_reference_application_are_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)

    done = run("events", "write", "--check")

    assert done.exit_code == 0, f"{done.output}Run: choreo events write"


def test_the_asyncapi_document_is_one_by_the_official_schema():
    document = json.loads((ROOT / "contracts" / "asyncapi.json").read_text())
    judge = Draft7Validator(json.loads(ASYNCAPI.read_text()))

    assert not list(judge.iter_errors(document))
    del document["operations"]["loyalty.award_points.receives.payment.charged"]["channel"]
    assert list(judge.iter_errors(document)), "it does look into operations"


def test_the_references_of_the_asyncapi_document_lead_somewhere(tmp_path, monkeypatch):
    document = json.loads((ROOT / "contracts" / "asyncapi.json").read_text())

    def references(part):
        if isinstance(part, dict):
            yield from [part["$ref"]] if "$ref" in part else ()
            part = list(part.values())
        for inner in part if isinstance(part, list) else ():
            yield from references(inner)

    for reference in set(references(document)):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_a_contract_file_is_a_json_schema_of_what_is_written():
    schema = json.loads((ROOT / "contracts" / "events" / "payment.charged.v1.json").read_text())

    assert Draft202012Validator(schema).is_valid({"customer_id": "alice", "amount_cents": 1, "payment_id": "P"})
    assert not Draft202012Validator(schema).is_valid({"customer_id": "alice", "amount_cents": "1", "payment_id": "P"})


def test_files_are_written_checked_and_removed(shop, tmp_path):
    missing = shop("choreo", "events", "write", "--check", code=1)
    shop("choreo", "events", "write")
    shop("choreo", "events", "write", "--check")
    first = (tmp_path / "contracts/events/order.placed.v1.json").read_text()
    (tmp_path / "shop.py").write_text(WITHOUT_TOTAL)
    changed = shop("choreo", "events", "write", "--check", code=1)

    assert "missing  contracts/events/order.placed.v1.json" in missing.stdout
    assert "`choreo events write`" in missing.stderr
    assert "changed  contracts/events/order.placed.v1.json" in changed.stdout
    assert json.loads(first)["description"] == "A customer placed an order."
    (tmp_path / "shop.py").write_text(SHOP.replace("(Event)", "(Event, version=2)"))
    shop("choreo", "events", "write")
    assert (tmp_path / "contracts/events/order.placed.v1.json").read_text() == first, "its events may still wait"
    (tmp_path / "shop.py").write_text(SHOP.replace("OrderPlaced", "OrderBilled"))
    shop("choreo", "events", "write")
    assert [path.name for path in (tmp_path / "contracts/events").iterdir()] == ["order.billed.v1.json"]


def test_a_change_is_found_against_the_files_of_a_revision_and_against_its_code(shop, tmp_path):
    (tmp_path / "shop.py").write_text(WITHOUT_TOTAL)
    imported = shop("choreo", "events", "diff", "--against", "main", code=1)
    (tmp_path / "shop.py").write_text(SHOP)
    shop("choreo", "events", "write")
    shop("git", "add", "-A")
    shop("git", "commit", "-qm", "with contracts")
    # What is imported would fail: so the files are read.
    shop("git", "mv", "shop.py", "gone.py")
    (tmp_path / "shop.py").write_text(WITHOUT_TOTAL)
    shop("git", "rm", "-q", "--cached", "gone.py")
    (tmp_path / "gone.py").unlink()
    read = shop("choreo", "events", "diff", "--against", "main", code=1)
    unchanged = shop("choreo", "events", "diff", "--against", "contracts", code=1)

    line = "BREAK order.placed: total removed; read by loyalty.award (view)"
    assert line in imported.stdout
    assert "main has no contract files in contracts, so its code is imported." in imported.stderr
    assert line in read.stdout
    assert not read.stderr
    assert line in unchanged.stdout
    file = shop("choreo", "events", "diff", "--against", "contracts/events/order.placed.v1.json")
    assert "1 event compared with contracts/events/order.placed.v1.json" in file.stdout
    assert all(len(line) <= 80 for line in read.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--against", "nowhere"), "neither a revision of git nor contract files"),
        (("--against", "contracts"), "has no contract files"),
        (("--against", "main", "--package", "nothing"), "There is no package or module 'nothing' here."),
        (("--against", "broken"), "cannot be imported, so there is nothing to compare with"),
        (("--against", "main", "--live"), "No service is known at"),
    ],
)
def test_what_cannot_be_compared_is_no_pass(shop, tmp_path, arguments, said):
    (tmp_path / "contracts").mkdir()
    shop("git", "checkout", "-qb", "broken")
    (tmp_path / "shop.py").write_text("raise RuntimeError('no')\nfrom choreo import Service\n" + SHOP)
    shop("git", "commit", "-qam", "broken")
    shop("git", "checkout", "-q", "main")

    done = shop("choreo", "events", "diff", *arguments, code=2)

    assert said in " ".join(done.stderr.split())


def test_an_unexpected_error_is_no_pass(shop, tmp_path):
    shop("choreo", "events", "write")
    (tmp_path / "contracts/events/order.placed.v1.json").write_bytes(b"\xff")

    assert "UnicodeDecodeError" in shop("choreo", "events", "diff", "--against", "contracts", code=2).stderr


def test_an_allow_list_accepts_with_a_reason_and_a_table_sets_levels(shop, tmp_path):
    (tmp_path / "shop.py").write_text(WITHOUT_TOTAL)
    settings = """\
        [tool.choreo.events]
        severity = {version-unchanged = "note"}
        [[tool.choreo.events.allow]]
        rule = "field-removed"
        event = "order.*"
        field = "total"
        reason = "loyalty is switched off"
        [[tool.choreo.events.allow]]
        rule = "null-added"
        reason = "never needed"
    """
    (tmp_path / "pyproject.toml").write_text(settings)

    done = shop("choreo", "events", "diff", "--against", "main", "--format", "json")
    found = {one["rule"]: one for one in map(json.loads, done.stdout.splitlines())}

    assert found["field-removed"]["allowed"] == "loyalty is switched off"
    assert found["version-unchanged"]["level"] == "note"
    assert found["allow-unused"]["level"] == "warning"
    shop("choreo", "events", "diff", "--against", "main", "--fail-on", "warning", code=1)
    for wrong, said in (("rule = 'field-remove'", "did you mean field-removed?"), ("rule = 'null-added'", "no reason")):
        (tmp_path / "pyproject.toml").write_text(f"[[tool.choreo.events.allow]]\n{wrong}\n")
        assert said in shop("choreo", "events", "diff", "--against", "main", code=2).stderr


def test_the_settings_are_those_of_the_nearest_file_and_its_paths_are_paths_from_there(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[tool.choreo.events]\ntitle = 'Shop'\ndirectory = 'docs/contracts'\n")
    below = tmp_path / "services" / "loyalty"
    below.mkdir(parents=True)

    settings = read_settings(below)

    assert (settings.title, str(settings.directory)) == ("Shop", "../../docs/contracts")
    assert str(read_settings(tmp_path).directory) == "docs/contracts"


def test_an_older_version_in_a_module_of_its_own_is_read_as_choreo_check_reads_it(shop: Shell, tmp_path: Path):
    package = tmp_path / "bakery"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "former.py").write_text(
        "from choreo import Event\n\n\nclass BreadBakedV1(Event, type='bread.baked'):\n    loaves: int\n"
    )
    (package / "app.py").write_text(
        "from choreo import Event, Service, Upcast\n\n\n"
        "class BreadBaked(Event, version=2, upcasters=[Upcast(1, renamed={'loaves': 'count'})]):\n    count: int\n\n\n"
        "app = Service('bakery')\n\n\n@app.on(BreadBaked)\ndef sell(bread: BreadBaked) -> None: ...\n"
    )

    shop("choreo", "events", "write", "--package", "bakery")

    assert {path.name for path in (tmp_path / "contracts" / "events").iterdir()} == {
        "bread.baked.v1.json",
        "bread.baked.v2.json",
    }


def test_settings_that_are_no_lists_or_tables_are_refused(tmp_path: Path):
    for text, said in (("[tool.choreo.events]\npackages = 'shop'", "write a list"), ("tool.choreo = 3", "is no table")):
        (tmp_path / "pyproject.toml").write_text(text)

        with pytest.raises(ContractError, match=said):
            read_settings(tmp_path)


def test_each_format_is_what_its_readers_expect(shop, tmp_path):
    (tmp_path / "shop.py").write_text(WITHOUT_TOTAL)

    def printed(form: str) -> str:
        return shop("choreo", "events", "diff", "--against", "main", "--format", form, code=1).stdout

    github, sarif = printed("github"), json.loads(printed("sarif"))
    suite = ElementTree.fromstring(printed("junit"))[0]

    assert github.splitlines()[0].startswith(
        "::error file=shop.py,line=6,title=choreo events diff%3A field-removed::order.placed: total removed; read by"
    )
    assert suite.attrib["failures"] == "1"
    assert suite[0].attrib["classname"] == "order.placed"
    assert suite[0][0].tag == "failure"
    (run,) = sarif["runs"]
    assert run["results"][0]["ruleId"] == run["tool"]["driver"]["rules"][run["results"][0]["ruleIndex"]]["id"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"] == {"startLine": 6}


def test_can_deploy_without_a_platform_is_unknown(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("CHOREO_BROKER_URL", "CHOREO_STORE_URL", "CELERY_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    where = ("--broker", "memory://", "--store", "memory:")

    nobody = run("can-deploy", *where)
    strange = run("can-deploy", "paymint", *where)

    assert nobody.exit_code == 2
    assert "No service is known" in nobody.output
    assert strange.exit_code == 2
    assert "has no service 'paymint'" in strange.output
