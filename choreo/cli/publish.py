"""`choreo publish`: announces an event from the shell."""

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from choreo.cli import completion
from choreo.cli.app import broker_of, check_named, namespace_of, say, speaking, tell
from choreo.declare.settings import Unheard
from choreo.errors import ChoreoError, InvalidEventError
from choreo.events.envelope import Envelope
from choreo.events.event import Event, known_events
from choreo.events.metadata import Meta, checked_meta
from choreo.events.redaction import check_unmasked, marks_of
from choreo.events.travel import way_of
from choreo.events.wire_names import wire_names
from choreo.guesses import hint
from choreo.local.discovery import DiscoveryError, Package, imported, packages_with_events
from choreo.observe.words import place
from choreo.service import Service

#: The most namespaces that a warning names.
MOST_NAMED = 4


@click.command(context_settings={"show_default": True})
@click.argument("event_type", metavar="TYPE", shell_complete=completion.event_types)
@click.option("--subject", default="", help="The subject of the event, such as ORD-9.")
@click.option("--data", default="{}", metavar="JSON", help="The fields of the event.")
@click.option("--caused-by", "cause", metavar="ID", help="The event, or its dead letter, that this one follows from.")
@click.option("--meta", "meta", multiple=True, metavar="NAME=VALUE", help="Metadata that caused events inherit.")
@click.option(
    "--package",
    metavar="NAME",
    shell_complete=completion.packages,
    help="The package that knows the event. Default: the only one in this directory that does.",
)
@speaking
def publish(
    app: Service,
    event_type: str,
    subject: str,
    data: str,
    cause: str | None,
    meta: tuple[str, ...],
    package: str | None,
) -> None:
    """
    Announce an event of TYPE, such as order.placed.

    The data is validated against the class of the event before the event is sent. Only the module of that class is
    imported.

    With --caused-by it stays in the story of an earlier event, named by its id or that of its dead letter. It has the
    same subject, unless one is given, and inherits the metadata.

    \b
    choreo publish order.placed --subject ORD-9 \\
        --data '{"customer_id": "alice", "total_cents": 2500, ...}' \\
        --meta tenant=acme
    """
    given = _meta(meta)
    caused_by = None if cause is None else _cause(app, cause)
    event = _made(_event_class(app, event_type, package), data)
    if (app.conf.get("choreo_unheard") or Unheard.LOG) == Unheard.LOG:
        # It is said below, once. Without a configuration of logs, the warning in the log would stand beside it.
        app.conf.choreo_unheard = Unheard.IGNORE
    subject = subject or (caused_by.subject if caused_by else "")
    envelope = app.publish(event, subject, meta=given, caused_by=caused_by)
    say(f"{envelope} announced; its id is {envelope.id}")
    if caused_by is not None:
        app.repairs.note("announced", f"{envelope}", reason=f"caused by {caused_by}")
        say(f"It follows from {caused_by}, in the story {envelope.correlation_id}")
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
    named = [f"{place(name)} (--namespace {shlex.quote(name)})" for name in others[:MOST_NAMED]]
    more = f", and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"It is heard in {', '.join(named)}{more}."


def _cause(app: Service, what: str) -> Envelope:
    """The event that is the cause. Raises `BadParameter` if nothing is known of it."""
    check_named(what, "--caused-by")
    found = app.find_event(what)
    if found is None:
        raise click.BadParameter(
            f"nothing is known of an event or a dead letter {what!r}. `choreo trace ORD-1 --json` shows the ids of the "
            f"events of a story.",
            param_hint="--caused-by",
        )
    return found


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


def _event_class(app: Service, event_type: str, package: str | None) -> type[Event]:
    if package is None:
        package = _package_that_knows(app, event_type)
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
        f"{package} knows no event {event_type!r}. {hint(event_type, sorted({*events, *known.events}), 'Known are:')}",
        param_hint="TYPE",
    )


def _package_that_knows(app: Service, event_type: str) -> str:
    """The package in this directory that knows this type of event: of several, the one whose services are known."""
    packages = packages_with_events(Path.cwd())
    found = {package.events[event_type]: name for name, package in packages.items() if event_type in package.events}
    if len(found) == 1:
        return next(iter(found.values()))
    if len(running := [name for name in found.values() if name in _packages_of(app)] if found else []) == 1:
        return running[0]
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
        f"no package in this directory knows an event {event_type!r}. {hint(event_type, sorted(known), 'Known are:')}",
        param_hint="TYPE",
    )


def _packages_of(app: Service) -> set[str]:
    """The packages of the services whose workers live, or were seen last."""
    with suppress(ChoreoError):  # the store may be away
        store = app.runtime.store
        presences = [store.presence(service) for service in store.services()]
        programs = [one for presence in presences for one in presence.workers or presence.gone]
        return {program.module.partition(".")[0] for program in programs if program.module}
    return set()


def _made(event: type[Event], data: str) -> Event:
    try:
        fields: Any = json.loads(data)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--data") from error
    faults = _unknown_fields(event, fields)
    try:
        made: Event = way_of(event).read(fields)
    except ValidationError as error:
        faults += [_described(fault) for fault in error.errors()]
    try:
        check_unmasked(fields, marks_of(event))
    except ValueError as error:
        faults.append(str(error))
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise click.BadParameter(f"not a valid {event.event_type}:\n{listed}", param_hint="--data")
    return made


def _unknown_fields(event: type[Event], fields: object) -> list[str]:
    """Return a fault for each name that is neither a field nor an alias. Services would ignore it: it is a typo."""
    if not isinstance(fields, dict) or event.model_config.get("extra") == "allow":
        return []
    known = {*event.model_fields, *wire_names(event)}
    faults = []
    for name in fields.keys() - known:
        faults.append(f"{name}: no such field, {hint(name, sorted(known), 'there are')}")
    return sorted(faults)


def _described(fault: Any) -> str:
    place = ".".join(map(str, fault["loc"])) or "data"
    # The input of a missing field is the whole object. The user has just typed that.
    value = "" if fault["type"] == "missing" else f", not {_shortened(fault['input'])}"
    return f"{place}: {fault['msg']}{value}"


def _shortened(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
