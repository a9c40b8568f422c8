"""`choreo publish`: announce an event from the shell."""

import json
from difflib import get_close_matches
from typing import Any

import click
from pydantic import ValidationError

from choreo.cli.app import command_line_service, connecting
from choreo.event import Event, known_events
from choreo.local.discovery import DiscoveryError, find_services


@click.command(context_settings={"show_default": True})
@click.argument("event_type", metavar="TYPE")
@click.option("--subject", default="", help="What the event is about, such as ORD-9.")
@click.option("--data", default="{}", metavar="JSON", help="The event's fields.")
@click.option("--package", default="handlers", metavar="NAME", help="The package of services that knows the event.")
@connecting
def publish(event_type: str, subject: str, data: str, package: str, broker: str | None, store: str | None) -> None:
    """
    Announce an event of TYPE, such as order.placed.

    The data is checked against the event's class before anything is sent.

    \b
    choreo publish order.placed --subject ORD-9 \\
        --data '{"customer_id": "alice", "total_cents": 2500, ...}'
    """
    event = _made(_event_class(event_type, package), data)
    envelope = command_line_service(broker, store).publish(event, subject)
    click.echo(f"{envelope} announced; its id is {envelope.id}")


def _event_class(event_type: str, package: str) -> type[Event]:
    try:
        find_services(package)
    except DiscoveryError as error:
        raise click.BadParameter(str(error), param_hint="--package") from error
    events = known_events()
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
    try:
        return event.model_validate(fields)
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(map(str, fault['loc'])) or 'data'}: {fault['msg']}" for fault in error.errors()
        )
        raise click.BadParameter(f"{event.event_type} needs\n{faults}", param_hint="--data") from error
