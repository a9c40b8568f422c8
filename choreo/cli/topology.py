"""`choreo topology plan` and `apply`: compare queues and bindings with what code declares, and make them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click

from choreo.cli.access import acl
from choreo.cli.app import say, speaking, tell
from choreo.cli.declared import declaring
from choreo.cli.group import Group
from choreo.cli.retire import retire
from choreo.cli.spans import SPAN
from choreo.cli.where import connecting
from choreo.observe.words import counted, span
from choreo.operate.topology import APPLIED_FOR, Orphan, Plan, ServicePlan, Wanted
from choreo.printing import one_line
from choreo.service import Service

#: The exit code of a plan with changes. 1 is an error and 2 a wrong option, as everywhere: a script must not take a
#: mistyped name for a plan.
CHANGES = 3
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("topology", cls=Group)
@connecting
def topology() -> None:
    """Plan, make and retire queues; print the rights of services."""


@topology.command("plan")
@_as_json
@speaking
@declaring
def plan(app: Service, declared: list[Service], as_json: bool) -> None:
    """
    Compare the queues that code declares with those there are.

    The same for their bindings. It changes nothing.

    The code is that of --code, --package or -A, or of the only package in this directory.

    \b
    +  `choreo topology apply` makes it
    -  workers unbind it when the last one that declares it has stopped
    ?  no code declares it: `choreo topology retire HANDLER`

    The exit code is 0 if `apply` has nothing to do, and 3 if it has.
    """
    found = app.runtime.topologies.plan(*map(wanted, declared))
    _print(app, found, as_json=as_json)
    if found.changes:
        click.get_current_context().exit(CHANGES)


@topology.command("apply")
@click.option(
    "--hold",
    type=SPAN,
    default=f"{APPLIED_FOR / 86_400:.0f}d",
    metavar="TIME",
    show_default=True,
    help="Within this time the workers are to start: 10m, 2h, 1d.",
)
@click.option("--dry-run", is_flag=True, help="Only print the plan; its exit code is that of `plan`.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log: see `choreo repairs`.")
@_as_json
@speaking
@declaring
def apply(app: Service, declared: list[Service], hold: float, dry_run: bool, reason: str, as_json: bool) -> None:
    """
    Make the queues that code declares, before its workers.

    It makes their bindings, too.

    From then on a queue keeps the events that are announced before the first worker of its handler starts. It is safe
    beside running workers of any version, and repeating it changes nothing. It unbinds and deletes nothing.

    For --hold, running workers of another version leave the new bindings alone. If no worker declares them then, they
    are unbound. What the last `apply` of a service made counts: to roll back, apply the old code.
    """
    its = [wanted(service) for service in declared]
    topologies = app.runtime.topologies
    found = topologies.plan(*its) if dry_run else topologies.apply(*its, seconds=hold, reason=reason)
    _print(app, found, as_json=as_json, is_done=not dry_run)
    if dry_run and found.changes:
        click.get_current_context().exit(CHANGES)


topology.add_command(retire)
topology.add_command(acl)


def wanted(service: Service) -> Wanted:
    """The queues and bindings that a service declares."""
    handlers = service.runtime.topology.patterns_by_handler()
    return Wanted(service.service_name, handlers, list(service.amqp.queues.values()))


def _print(app: Service, found: Plan, *, as_json: bool, is_done: bool = False) -> None:
    if as_json:
        say(found.to_json())
        return
    now = app.runtime.store.now()
    for one in found.services:
        rows = list(_rows(one, now))
        if rows:
            say(one_line(one.service))
        for row in rows:
            say(one_line(row))
    say(_sum(found, is_done=is_done))
    for orphan in found.orphans:
        say(_way_out(orphan))
    if found.others:
        tell(f"Not compared, since this code does not declare them: {', '.join(found.others)}.")


def _rows(one: ServicePlan, now: float) -> Iterator[str]:
    for queue in one.create:
        yield f"  + queue   {queue}"
    for queue, pattern in one.bind:
        yield f"  + bind    {queue}  from {pattern}"
    for stale in one.unbind:
        yield f"  - unbind  {stale.queue}  from {stale.pattern}"
        if stale.workers:
            yield f"            {_still(stale.workers)}"
    for orphan in one.orphans:
        yield f"  ? orphan  {orphan.queue}  {_left(orphan)}"
        yield f"            {_since(orphan, now)}"


def _left(orphan: Orphan) -> str:
    texts = [counted(orphan.waiting, "message")]
    texts += [counted(orphan.dead_letters, "dead letter")] * bool(orphan.dead_letters)
    texts += [f"{orphan.scheduled} in its schedule"] * bool(orphan.scheduled)
    return ", ".join(texts)


def _since(orphan: Orphan, now: float) -> str:
    if orphan.is_retiring:
        return "it is being retired" + (f"; {_still(orphan.workers)}" if orphan.workers else "")
    if orphan.workers:
        return _still(orphan.workers)
    if orphan.last_worker is None:
        return "no worker declares it"
    at = datetime.fromtimestamp(orphan.last_worker, UTC)
    return f"no worker since {at:%Y-%m-%d %H:%M} UTC, {span(now - orphan.last_worker)} ago"


def _way_out(orphan: Orphan) -> str:
    """The next step, as a line for a shell."""
    when = "  # when no worker declares it any more" if orphan.workers else ""
    return f"choreo topology retire {one_line(orphan.handler)}{when}"


def _still(workers: Sequence[str]) -> str:
    return f"{counted(len(workers), 'live worker')} still declare{'s' * (len(workers) == 1)} it"


def _sum(found: Plan, *, is_done: bool) -> str:
    queues = sum(len(one.create) for one in found.services)
    bindings = sum(len(one.bind) for one in found.services)
    told = [counted(queues, "queue")] * bool(queues) + [counted(bindings, "binding")] * bool(bindings)
    if told:
        return f"{'Made' if is_done else 'To make'}: {' and '.join(told)}."
    services = counted(len(found.services), "service")
    return f"Nothing to make: the queues and bindings of {services} are there."
