"""`choreo publish`: announces an event from the shell."""

import json
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from pydantic import AliasChoices, AliasPath, ValidationError

from choreo.cli import completion
from choreo.cli.app import broker_of, namespace_of, say, speaking, tell
from choreo.declare.settings import Unheard
from choreo.errors import ChoreoError, InvalidEventError
from choreo.events.event import Event, known_events
from choreo.events.metadata import Meta, checked_meta
from choreo.local.discovery import DiscoveryError, Package, imported, packages_with_events
from choreo.service import Service

#: The most namespaces that a warning names.
MOST_NAMED = 4


@click.command(context_settings={"show_default": True})
@click.argument("event_type", metavar="TYPE", shell_complete=completion.event_types)
@click.option("--subject", default="", help="The subject of the event, such as ORD-9.")
@click.option("--data", default="{}", metavar="JSON", help="The fields of the event.")
@click.option("--meta", "meta", multiple=True, metavar="NAME=VALUE", help="Metadata that caused events inherit.")
@click.option(
    "--package",
    metavar="NAME",
    shell_complete=completion.packages,
    help="The package that knows the event. Default: the only one in this directory that does.",
)
@speaking
def publish(app: Service, event_type: str, subject: str, data: str, meta: tuple[str, ...], package: str | None) -> None:
    """
    Announce an event of TYPE, such as order.placed.

    The data is validated against the class of the event before the event is sent. Only the module of that class is
    imported.

    \b
    choreo publish order.placed --subject ORD-9 \\
        --data '{"customer_id": "alice", "total_cents": 2500, ...}' \\
        --meta tenant=acme
    """
    given = _meta(meta)
    event = _made(_event_class(event_type, package), data)
    if (app.conf.get("choreo_unheard") or Unheard.LOG) == Unheard.LOG:
        # It is said below, once. Without a configuration of logs, the warning in the log would stand beside it.
        app.conf.choreo_unheard = Unheard.IGNORE
    envelope = app.publish(event, subject, meta=given)
    say(f"{envelope} announced; its id is {envelope.id}")
    if not subject:
        _warn(
            f"{event_type} has no subject. A join that uses the subject as its key makes it a dead letter. "
            f"Name a subject: --subject ORD-1."
        )
    if app.publisher.unheard:
        _warn(
            f"no handler listens to {event_type} at {broker_of(app)} ({namespace_of(app)}). {_way_out(app, event_type)}"
        )


def _way_out(app: Service, event_type: str) -> str:
    """The namespaces that hear the event, or else the question if this is the right place."""
    others: list[str] = []
    with suppress(ChoreoError):  # the event is announced; the store may be away, or there may be none
        others = list(app.observe.heard_elsewhere(event_type))
    if not others:
        return "Is this the right broker and namespace? (--broker / CHOREO_BROKER_URL, --namespace / CHOREO_NAMESPACE)"
    named = [f"the namespace {name!r} (--namespace {name})" if name else "no namespace" for name in others[:MOST_NAMED]]
    more = f", and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"It is heard in {', '.join(named)}{more}."


def _meta(given: tuple[str, ...]) -> Meta:
    try:
        return checked_meta(dict(_pair(one) for one in given))
    except InvalidEventError as error:
        raise click.BadParameter(str(error), param_hint="--meta") from error


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.BadParameter(f"{text!r} is no NAME=VALUE. Write tenant=acme.", param_hint="--meta")
    return name, value


def _warn(text: str) -> None:
    tell(f"Warning: {text}")


def _event_class(event_type: str, package: str | None) -> type[Event]:
    if package is None:
        package = _package_that_knows(event_type)
    try:
        known = Package(package)
        found = known.events.get(event_type)
        if found is not None:
            imported(found[0])
        else:
            # A class that no source shows, made by a function, exists once the services are imported.
            for module in known.modules:
                imported(module)
    except DiscoveryError as error:
        raise click.BadParameter(str(error), param_hint="--package") from error
    events = known_events(found[0] if found else package)
    if event_type in events:
        return events[event_type]
    raise click.BadParameter(
        f"{package} knows no event {event_type!r}. {_hint(event_type, {*events, *known.events})}", param_hint="TYPE"
    )


def _package_that_knows(event_type: str) -> str:
    """The only package in this directory that knows this type of event."""
    packages = packages_with_events(Path.cwd())
    found = {package.events[event_type]: name for name, package in packages.items() if event_type in package.events}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = ", ".join(found.values())
        raise click.BadParameter(f"several packages know {event_type}: {names}. Name one.", param_hint="--package")
    if not packages:
        raise click.BadParameter(
            "no package in this directory defines an event. Name one, or run the command in the directory that holds "
            "it.",
            param_hint="--package",
        )
    known = {name for package in packages.values() for name in package.events}
    raise click.BadParameter(
        f"no package in this directory knows an event {event_type!r}. {_hint(event_type, known)}", param_hint="TYPE"
    )


def _hint(event_type: str, known: set[str]) -> str:
    guess = get_close_matches(event_type, known, n=1)
    return f"Did you mean {guess[0]}?" if guess else f"Known are: {', '.join(sorted(known)) or 'none'}."


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
