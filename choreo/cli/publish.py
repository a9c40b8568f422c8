"""`choreo publish`: announces an event from the shell."""

import json
from difflib import get_close_matches
from typing import Any

import click
from pydantic import AliasChoices, AliasPath, ValidationError

from choreo.cli import completion
from choreo.cli.app import broker_of, speaking
from choreo.events.event import Event, known_events
from choreo.local.discovery import DiscoveryError, find_services
from choreo.service import Service


@click.command(context_settings={"show_default": True})
@click.argument("event_type", metavar="TYPE", shell_complete=completion.event_types)
@click.option("--subject", default="", help="The subject of the event, such as ORD-9.")
@click.option("--data", default="{}", metavar="JSON", help="The fields of the event.")
@click.option("--package", default="handlers", metavar="NAME", help="The package of services that knows the event.")
@speaking
def publish(app: Service, event_type: str, subject: str, data: str, package: str) -> None:
    """
    Announce an event of TYPE, such as order.placed.

    The data is validated against the class of the event before the event is sent.

    \b
    choreo publish order.placed --subject ORD-9 \\
        --data '{"customer_id": "alice", "total_cents": 2500, ...}'
    """
    event = _made(_event_class(event_type, package), data)
    envelope = app.publish(event, subject)
    click.echo(f"{envelope} announced; its id is {envelope.id}")
    if not subject:
        _warn(
            f"{event_type} has no subject. A join that uses the subject as its key makes it a dead letter. "
            f"Name a subject: --subject ORD-1."
        )
    if app.publisher.unheard:
        _warn(
            f"no handler listens to {event_type} at {broker_of(app)}; is this the right broker? "
            f"(--broker, CHOREO_BROKER_URL)"
        )


def _warn(text: str) -> None:
    click.echo(f"Warning: {text}", err=True)


def _event_class(event_type: str, package: str) -> type[Event]:
    try:
        find_services(package)
    except DiscoveryError as error:
        raise click.BadParameter(str(error), param_hint="--package") from error
    events = known_events(package)
    if event_type in events:
        return events[event_type]
    guess = get_close_matches(event_type, events, n=1)
    hint = f"Did you mean {guess[0]}?" if guess else f"It knows {', '.join(sorted(events)) or 'none'}."
    raise click.BadParameter(f"{package} knows no event {event_type!r}. {hint}", param_hint="TYPE")


def _made(event: type[Event], data: str) -> Event:
    try:
        fields: Any = json.loads(data)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--data") from error
    faults = _unknown_fields(event, fields)
    try:
        made = event.model_validate(fields)
    except ValidationError as error:
        faults += [_described(fault) for fault in error.errors()]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise click.BadParameter(f"not a valid {event.event_type}:\n{listed}", param_hint="--data")
    return made


def _unknown_fields(event: type[Event], fields: object) -> list[str]:
    """Return a fault for each name that is neither a field nor an alias. Services would ignore it: it is a typo."""
    if not isinstance(fields, dict) or event.model_config.get("extra") == "allow":
        return []
    known = _names(event)
    faults = []
    for name in fields.keys() - known:
        guess = get_close_matches(name, known, n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"there are {', '.join(sorted(known)) or 'none'}."
        faults.append(f"{name}: no such field, {hint}")
    return sorted(faults)


def _names(event: type[Event]) -> set[str]:
    names = set(event.model_fields)
    for info in event.model_fields.values():
        alias = info.validation_alias or info.alias
        for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            names.add(str(choice.path[0]) if isinstance(choice, AliasPath) else choice or "")
    return names - {""}


def _described(fault: Any) -> str:
    place = ".".join(map(str, fault["loc"])) or "data"
    # The input of a missing field is the whole object. The user has just typed that.
    value = "" if fault["type"] == "missing" else f", not {_shortened(fault['input'])}"
    return f"{place}: {fault['msg']}{value}"


def _shortened(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
