"""`choreo topology acl`: prints the least rights of each service, for Redis and RabbitMQ."""

import json
import shlex
from collections.abc import Iterator, Sequence

import click

from choreo.cli import completion
from choreo.cli.app import COMMAND_LINE, check_names, nobody, say, speaking
from choreo.cli.folding import wrap
from choreo.observe.map import Map
from choreo.operate.access import Ground, Program, Rights, rights_of
from choreo.service import Service

#: The columns of a line.
WIDTH = 80
_NOTES_REDIS = (
    "A user reads the queues and the state of its own service, and pushes into the queues of the others: whoever "
    "announces does that. So it can announce any event. Redis cannot separate: messages that workers hold "
    "(_choreo.inflight.*), since any worker returns those of a dead one; bindings (_kombu.*); delayed events; the "
    "names of handlers and the log of repairs; and the names of all keys (SCAN)."
)
_NOTES_LIST = (
    "These rights name each service, since the platform has neither a namespace nor a global_keyprefix. Print them "
    "anew before a new service starts: without that, the others cannot announce what it hears."
)
_NOTES_RABBITMQ = (
    "A user reads the queues of its own service only. RabbitMQ cannot separate: amq.default, over which retries go, "
    "reaches every queue; and worker events tell of all services. So a user can send any event to any queue."
)
_NOTES_STRICT = (
    "--strict: a user announces and hears only the types that its service declares. Print them anew before a version "
    "with others starts. Workers send the delayed events of all services: do not use --strict with delay= or at=."
)
_NOTES_STORE = (
    "In the store a user reaches the state of its own service. Shared by all: delayed events, the names of handlers "
    "and services, descriptions of joins, counts of unheard events, and the log of repairs."
)


@click.command("acl")
@click.argument("names", nargs=-1, metavar="[SERVICE]...", shell_complete=completion.services_and_handlers)
@click.option("--strict", is_flag=True, help="On RabbitMQ: limit the types of events, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line: one for each user.")
@speaking
def acl(app: Service, names: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """
    Print the least rights of each service.

    They are commands for a shell.

    One user for each service that the store knows, named after it, and one for operators. Put a password in place of
    PASSWORD. Comments say what the broker and the store cannot separate.
    """
    shown = app.observe.map()
    programs = _programs(shown)
    if not programs:
        raise click.ClickException(nobody(app))
    check_names(app, names, [program.name for program in programs], "service")
    ground = ground_of(app)
    rights = [one for one in rights_of(ground, programs, strict=strict) if not names or one.user in names]
    if as_json:
        for one in rights:
            say(json.dumps(one.to_dict()))
        return
    vhost = app.connection_for_write().virtual_host if ground.is_rabbitmq else "/"
    for line in _script(ground, rights, vhost, strict=strict):
        say(line)


def ground_of(app: Service) -> Ground:
    """Where the platform is that a command looks at."""
    from choreo.broker.connections import is_same_place, joined, redis_url

    broker = redis_url(joined(app.conf.broker_write_url))
    store = app.conf.get("choreo_store_url") or broker
    namespace = app.runtime.topology.name_of("")
    options = app.conf.broker_transport_options or {}
    return Ground(
        namespace,
        str(options.get("global_keyprefix", "")),
        f"choreo:{namespace}".rstrip(".:"),
        int(app.connection_for_write().virtual_host.strip("/") or 0) if broker else 0,
        is_rabbitmq=not broker,
        plain_exchange=app.conf.get("choreo_cloudevents_exchange") or "",
        is_one_server=bool(broker) and is_same_place(store, broker),
    )


def _programs(shown: Map) -> list[Program]:
    """The services of a map, with what they announce and hear."""
    announced: dict[str, set[str]] = {one.name: set() for one in shown.services if one.name != COMMAND_LINE}
    for event in shown.events:
        for announcer in event.announced_by:
            if announcer.service in announced:
                announced[announcer.service].add(event.type)
    unsaid = {name.partition(".")[0] for name in shown.unsaid}
    return [
        Program(
            name,
            None if name in unsaid else sorted(types),
            sorted(
                kind
                for handler in shown.handlers
                if handler.service == name
                for kind in {*handler.hears, *handler.foreign}
            ),
        )
        for name, types in announced.items()
    ]


def _script(ground: Ground, rights: Sequence[Rights], vhost: str, *, strict: bool) -> Iterator[str]:
    here = [] if vhost in ("", "/") else ["-p", vhost]
    for note in _notes(ground, strict=strict):
        yield from wrap(f"# {note}", WIDTH, "# ")
    for one in rights:
        yield ""
        if one.permissions:
            yield f"rabbitmqctl add_user {one.user} PASSWORD"
            yield from _folded(["rabbitmqctl", "set_permissions", *here, one.user, *one.permissions])
        if one.topics:
            yield from _folded(["rabbitmqctl", "set_topic_permissions", *here, one.user, *one.topics])
        for place, rules in (("broker", one.broker), ("store", one.store)):
            if rules:
                if one.store:
                    yield f"# on the Redis of the {place}:"
                yield from _folded(["redis-cli", "ACL", "SETUSER", one.user, "reset", "on", ">PASSWORD", *rules])


def _notes(ground: Ground, *, strict: bool) -> Iterator[str]:
    if ground.is_rabbitmq:
        yield _NOTES_RABBITMQ
        if strict:
            yield _NOTES_STRICT
        yield _NOTES_STORE
        return
    yield _NOTES_REDIS
    if not (ground.namespace or ground.prefix):
        yield _NOTES_LIST


def _folded(words: Sequence[str]) -> Iterator[str]:
    """A command for a shell, in lines of `WIDTH` columns. A word is not broken."""
    line = ""
    for word in map(shlex.quote, words):
        if line and len(line) + len(word) + 3 > WIDTH:
            yield f"{line} \\"
            line = " "
        line = f"{line} {word}" if line else word
    yield line
