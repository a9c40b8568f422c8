"""`choreo events`: writes the contracts of events into files, and says whom a change of events hurts."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from choreo.cli import completion
from choreo.cli.app import is_known, nobody, say, speaking, tell
from choreo.cli.declared import code_option
from choreo.cli.findings import fail_on_option, format_option, print_findings
from choreo.cli.group import Group
from choreo.cli.where import connecting
from choreo.errors import ChoreoError
from choreo.findings import ERROR, NOTE, WARNING, Finding, ordered
from choreo.service import Service

if TYPE_CHECKING:
    from choreo.contracts.contract import Contracts
    from choreo.contracts.settings import Settings

#: The exit code of what could not be compared.
NOT_COMPARED = 2
_WORDS = {ERROR: "BREAK", WARNING: "WARN", NOTE: "ok", "deploy-order": "ORDER"}
_DOCS = "https://github.com/celery-choreo/celery-choreo/blob/main/docs/contracts.md"


class NotComparedError(click.ClickException):
    """Nothing was compared, so nothing passes. The exit code is 2."""

    exit_code = NOT_COMPARED


@click.group(cls=Group)
@connecting
def events() -> None:
    """Write the contracts of events, and compare them."""


def coded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: adds the options that say which code is meant: ``packages`` and ``targets``."""
    package = click.option(
        "--package",
        "packages",
        metavar="NAME",
        multiple=True,
        shell_complete=completion.packages,
        help="Read the code of this package. Default: those in this directory.",
    )
    return package(code_option(command))


def never_passing(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: whatever keeps the command from comparing makes the exit code 2. So it never reads like a pass."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except click.ClickException as error:
            error.exit_code = NOT_COMPARED  # type: ignore[misc]
            raise
        except ChoreoError as error:
            raise NotComparedError(str(error)) from error
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception:  # a fault of choreo, or of the code that was imported
            traceback.print_exc()
            click.get_current_context().exit(NOT_COMPARED)

    return run


def check_known(app: Service) -> None:
    """Raise `NotComparedError` if the store knows no service: it may be the wrong place."""
    if not is_known(app):
        raise NotComparedError(f"{nobody(app)} So nothing tells who would be hurt.")


def read_code(packages: Sequence[str], targets: Sequence[str], settings: Settings) -> Contracts:
    """The contracts of the code in this directory. What its modules print goes to stderr."""
    from contextlib import redirect_stdout

    from choreo.contracts.code import contracts_of_code

    with redirect_stdout(sys.stderr):
        return contracts_of_code(packages or (() if targets else settings.packages), targets)


@events.command()
@coded
@click.option("--to", "directory", metavar="DIR", type=click.Path(path_type=Path), help="The directory of the files.")
@click.option("--check", is_flag=True, help="Write nothing; the exit code is 1 if a file is not as it should be.")
@never_passing
def write(packages: tuple[str, ...], targets: tuple[str, ...], directory: Path | None, check: bool) -> None:
    """
    Write the contracts of the code into files.

    A JSON Schema for each version of an event, a file for each service, and one AsyncAPI document. Put them under
    version control: `choreo events diff` compares with them, and a review shows a change of a contract.

    The file of an older version, whose class is gone, stays as long as the event is there: its events may still wait.
    Of an event or a service that is gone, the files are removed.

    The exit code is 0, 1 if --check finds a file that is not up to date, and 2 if the code cannot be read.
    """
    from dataclasses import replace

    from choreo.contracts.folder import file_of, files_of, older, stale
    from choreo.contracts.settings import read_settings

    settings = read_settings(Path.cwd())
    place = directory or settings.directory
    contracts = read_code(packages, targets, settings)
    former = older(contracts, place)
    whole = replace(contracts, events=sorted([*contracts.events, *former], key=lambda one: (one.type, one.version)))
    kept = {file_of(one) for one in former}
    files = {name: text for name, text in files_of(whole, settings.title).items() if name not in kept}
    wrong = stale(files, place, kept)
    if check:
        _check(wrong, place)
        return
    for name in wrong:
        path = place / name
        if name in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[name], encoding="utf-8")
        else:
            path.unlink()
    said = f"{len(files) + len(kept)} files in {place}: {_counted(wrong.values())}"
    say(said if wrong else f"{len(files) + len(kept)} files in {place} are up to date.")


def _check(wrong: dict[str, str], place: Path) -> None:
    if not wrong:
        say(f"The contract files in {place} are up to date.")
        return
    for name, how in sorted(wrong.items()):
        say(f"{how:8} {place / name}")
    tell("The contract files are not those of the code. Write them: `choreo events write`, and commit them.")
    click.get_current_context().exit(1)


def _counted(how: Iterable[str]) -> str:
    words = {"missing": "new", "changed": "changed", "unknown": "removed"}
    found = [words[one] for one in how]
    return ", ".join(f"{found.count(word)} {word}" for word in words.values() if word in found) + "."


@events.command()
@coded
@click.option(
    "--against",
    metavar="REF|PATH",
    required=True,
    help="A revision of git, or contract files: a directory, or one of an event.",
)
@click.option("--live", is_flag=True, help="Ask the platform, too: who runs, what they read, and what waits.")
@format_option
@fail_on_option
@never_passing
@speaking
def diff(
    app: Service,
    packages: tuple[str, ...],
    targets: tuple[str, ...],
    against: str,
    live: bool,
    form: str,
    fail_on: str,
) -> None:
    """
    Show what changed in the events, and whom it hurts.

    Each change is judged in both directions: the readers of the old code and what is written now, as while a deployment
    rolls; the readers of this code and what was written before, as in a backlog or a replay. Only readers that read the
    field are hurt.

    \b
    choreo events diff --against main
    choreo events diff --against main --live --format github

    The exit code is 0, 1 for a breaking change, and 2 if it could not be compared.
    """
    from dataclasses import replace

    from choreo.contracts.changes import changes
    from choreo.contracts.rules import RULES
    from choreo.contracts.running import Running, look
    from choreo.contracts.settings import read_settings

    settings = read_settings(Path.cwd())
    new = with_files(read_code(packages, targets, settings), settings.directory)
    old = _old(against, settings, packages, targets)
    if Path(against).is_file():
        new = replace(new, events=[contract for contract in new.events if contract.type in old.types])
    running: Running | None = None
    if live:
        check_known(app)
        running = look(app, {*old.types, *new.types})
        for note in running.notes:
            tell(f"Note: {note}.")
    found = ordered(settings.apply(changes(old, new, running)))
    rules = {name: rule.summary for name, rule in RULES.items()}
    print_findings(found, form, tool="choreo events diff", rules=rules, words=_WORDS, docs=_DOCS)
    if form == "text":
        say(_summary(found, old, new))
    if any(finding.fails(fail_on) for finding in found):
        click.get_current_context().exit(1)


def with_files(contracts: Contracts, directory: Path) -> Contracts:
    """The contracts of the code, with the older versions of its events of which only files are left."""
    from dataclasses import replace

    from choreo.contracts.folder import older

    return replace(contracts, events=[*contracts.events, *older(contracts, directory)])


def _old(against: str, settings: Settings, packages: Sequence[str], targets: Sequence[str]) -> Contracts:
    """What to compare with: a directory, or else a revision."""
    from choreo.contracts.contract import ContractError
    from choreo.contracts.folder import read_files, read_folder
    from choreo.contracts.git import contracts_at, is_revision

    if is_revision(against):
        # The settings are those of this checkout, also for code that has none.
        named = packages or (() if targets else settings.packages)
        options = [part for name in named for part in ("--package", name)]
        options += [part for name in targets for part in ("--code", name)]
        return contracts_at(against, settings.directory, options, tell)
    if Path(against).is_dir():
        return read_folder(Path(against))
    if Path(against).is_file():
        return read_files({f"events/{Path(against).name}": Path(against).read_text(encoding="utf-8")}, against)
    raise ContractError(
        f"{against!r} is neither a revision of git nor contract files here. In CI, fetch the branch "
        f"first: `git fetch origin {against}`, and compare with origin/{against}."
    )


def _summary(found: Sequence[Finding], old: Contracts, new: Contracts) -> str:
    from choreo.observe.words import counted

    breaking = sum(finding.fails() for finding in found)
    said = f"{counted(len(new.types), 'event')} compared with {old.origin}"
    if breaking:
        return f"{said}: {breaking} breaking."
    return f"{said}: nothing breaks."
