"""`choreo dead-letters edit`: the event of a dead letter with other data, as a new event."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from choreo.cli.app import say, speaking, tell_asleep
from choreo.events.redaction import redacted
from choreo.printing import one_line
from choreo.service import Service


@click.command()
@click.argument("letter_id", metavar="ID")
@click.option(
    "--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Another value of a field. Can be repeated."
)
@click.option("--data", metavar="JSON", help="All fields of the event.")
@click.option("--event", metavar="TYPE", default="", help="The type or id of the event, if the letter is of a join.")
@click.option("--reason", metavar="TEXT", help="Why. It is asked for if it is left out.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
def edit(
    app: Service,
    letter_id: str,
    changes: tuple[str, ...],
    data: str | None,
    event: str,
    reason: str | None,
    yes: bool,
) -> None:
    """
    Send the event of a dead letter with other data.

    It is a new event, caused by the old one, and no other handler gets it. The dead letter is discarded. A VALUE is
    JSON, or else a text: --set total_cents=2500 --set note=late. With -A the data is validated against the class of the
    event.

    Only where the setting choreo_allow_edit is True.
    """
    # Imported here: `choreo dead-letters list` reads this file, and needs no pydantic.
    from choreo.operate.edits import chosen

    app.dead_letters.check_edit()
    letter = app.dead_letters.get(letter_id)
    old = chosen(letter, event)
    fields = _fields(data, changes, old.data)
    # What is not shown is compared all the same.
    seen = redacted(old).data, redacted(replace(old, data=fields)).data
    for line in _differences(old.data, fields, *seen):
        say(line)
    reason = click.prompt("Why") if reason is None else reason
    if not (yes or click.confirm(f"Send this {old.type} to {one_line(letter.handler)}?")):
        return
    new = app.dead_letters.edit(letter_id, fields, event=event, reason=reason)
    say(f"{letter.id}: {new} goes to {one_line(letter.handler)} as a new event, {new.id}.")
    tell_asleep(app, letter.handler)


def _fields(data: str | None, changes: tuple[str, ...], known: Mapping[str, Any]) -> dict[str, Any]:
    if (data is None) == (not changes):
        raise click.UsageError("Say what is to be another: --set FIELD=VALUE, or --data JSON.")
    if data is None:
        from choreo.operate.edits import with_changes

        return with_changes(known, dict(map(_change, changes)))
    try:
        fields = _json(data)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--data") from error
    if not isinstance(fields, dict):
        raise click.BadParameter("the fields of an event are a JSON object.", param_hint="--data")
    return fields


def _change(text: str) -> tuple[str, Any]:
    name, is_pair, value = text.partition("=")
    if not (name and is_pair):
        raise click.BadParameter(f"{text!r}: write it like total_cents=2500.", param_hint="--set")
    try:
        return name, _json(value)
    except ValueError:
        return name, value


def _json(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError`, also for what is JSON to Python only, such as NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], seen_old: Mapping[str, Any], seen_new: Mapping[str, Any]
) -> list[str]:
    """The fields that are not the same, each in a line. The last two are the data as people see it."""
    names = [name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name]]
    return [f"{one_line(name)}: {_shown(seen_old, name)} -> {_shown(seen_new, name)}" for name in names]


def _shown(data: Mapping[str, Any], name: str) -> str:
    return one_line(json.dumps(data[name], ensure_ascii=False)) if name in data else "(none)"
