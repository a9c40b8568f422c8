"""`choreo can-deploy`: may the services of this checkout be deployed beside what runs?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from choreo.cli.app import say, speaking, tell
from choreo.cli.events import NotComparedError, check_known, coded, never_passing, read_code, with_files
from choreo.cli.folding import wrap
from choreo.service import Service

if TYPE_CHECKING:
    from choreo.contracts.contract import Contracts
    from choreo.contracts.deploy import Pair

_STYLES = {"yes": "green", "no": "bold red", "unknown": "yellow"}
#: Verdict → the exit code. Of several, the worst counts: "no" before "unknown".
_CODES = {"no": 1, "unknown": 2}


@click.command("can-deploy")
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
@coded
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@never_passing
@speaking
def can_deploy(
    app: Service, names: tuple[str, ...], packages: tuple[str, ...], targets: tuple[str, ...], as_json: bool
) -> None:
    """
    Say whether this code may be deployed beside what runs.

    Each service is compared with the live workers that hear its events or announce those that it hears, and with what
    still waits for it: in queues, the schedule, joins and dead letters. Without SERVICE, all services of the checkout
    are, in any order.

    \b
    choreo can-deploy
    choreo can-deploy payment

    The exit code is 0 for yes, 1 for no, and 2 if that is unknown.
    """
    from choreo.contracts.deploy import pairs
    from choreo.contracts.running import look
    from choreo.contracts.settings import read_settings

    settings = read_settings(Path.cwd())
    new = with_files(read_code(packages, targets, settings), settings.directory)
    _check_names(names, new)
    check_known(app)
    running = look(app, new.types)
    for note in running.notes:
        tell(f"Note: {note}.")
    found = pairs(new, running, names)
    if as_json:
        for pair in found:
            say(json.dumps(pair.to_dict()))
    else:
        _print(found)
    verdicts = {str(pair.verdict) for pair in found}
    for verdict, code in _CODES.items():
        if verdict in verdicts:
            click.get_current_context().exit(code)


def _check_names(names: Sequence[str], new: Contracts) -> None:
    known = sorted(service.service for service in new.services)
    for name in names:
        if name not in known:
            raise NotComparedError(f"{new.origin} has no service {name!r}. It has {', '.join(known) or 'none'}.")


def _print(found: Sequence[Pair]) -> None:
    from choreo.cli.tables import screen, show, table, text
    from choreo.contracts.deploy import WAITING

    if not found:
        say("Nobody who runs hears or announces any of these events: yes.")
        return
    console = screen()
    rows = table("CONSUMER", "VERSION", "PROVIDER", "VERSION", "VERDICT")
    for pair in found:
        verdict = str(pair.verdict)
        is_service = pair.provider not in ("", WAITING)
        provider_version = (pair.provider_version or "?") if is_service else ""
        cells = (pair.consumer, pair.consumer_version or "?", pair.provider or "nobody", provider_version)
        rows.add_row(*map(text, cells), text((verdict, _STYLES[verdict])))
    show(console, rows)
    for verdict in _CODES:
        reasons = dict.fromkeys(reason for pair in found if pair.verdict == verdict for reason in pair.reasons)
        for reason in reasons:
            for line in wrap(f"{verdict:8} {reason}", console.width, " " * 9):
                say(line)
