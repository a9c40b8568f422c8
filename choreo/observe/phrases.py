"""What a look at the platform found, in lines for people: for `choreo top` and for the page Flow."""

import time
from collections.abc import Iterator

from choreo.observe import words
from choreo.observe.figures import size
from choreo.observe.loops import Loop
from choreo.observe.overview import Overview, Version
from choreo.observe.server import Server
from choreo.store.schedule import DELAYED


def loop(found: Loop) -> str:
    """One loop: whose it is, how many events it has, of which types, and how it ended."""
    circle = " <-> ".join(found.types)
    end = f", ended as dead letter {found.letter}" if found.letter else ""
    many = f"at least {found.events:,} events in {words.span(found.seconds)}"
    return f"{found.subject or found.story} has {many}: {circle}{end}"


def unheard(found: Overview) -> Iterator[str]:
    """The types that reached no queue: one line each."""
    for kind, lost in found.unheard.items():
        ago = words.span(found.at.timestamp() - lost.last)
        yield f"{kind} from {lost.source}: {lost.count:,}x, the last {ago} ago"


def versions(found: Overview) -> str:
    """The services that run several versions at once. A single one that is unknown says nothing."""
    told: dict[str, list[Version]] = {}
    for version in found.versions:
        told.setdefault(version.service, []).append(version)
    several = {name: its for name, its in sorted(told.items()) if len(its) > 1}
    if not several:
        return "one version each" if any(version.version for version in found.versions) else ""
    return "; ".join(f"{name} {', '.join(_version(one, found) for one in its)}" for name, its in several.items())


def _version(one: Version, found: Overview) -> str:
    """A version, and when the first of its workers started: nothing else tells which code is the older one."""
    return f"{one.version or '?'} x{one.workers} (started {words.span(found.at.timestamp() - one.since)} ago)"


def server(server: Server) -> str:
    """One server: its memory, its policy, and what it has lost."""
    facts = [
        f"{server.name}: {size(server.used)}" + (f" of {size(server.limit)}" if server.limit else ", no limit"),
        server.policy,
        "which evicts keys as soon as maxmemory is set" if server.has_evicting_policy and not server.limit else "",
        "" if server.aof is None else f"AOF {'on' if server.aof else 'off'}",
        f"evicted {server.evicted:,}",
        f"{server.replicas} replicas, {size(server.lag)} behind" if server.replicas else "",
        f"FAILED: {server.failed}" if server.failed else "",
    ]
    return ", ".join(filter(None, facts))


def coming(found: Overview) -> str:
    """What falls due within the next hour, and what is late."""
    coming, late = found.coming, found.overdue
    overdue = f"{late:,} {'message is' if late == 1 else 'messages are'} overdue"
    kinds = [
        (coming.retries, "retry", "retries"),
        (coming.deadlines, "deadline", "deadlines"),
        (coming.delayed, "delayed event", "delayed events"),
    ]
    told = ", ".join(f"{number:,} {one if number == 1 else several}" for number, one, several in kinds if number)
    if not told or coming.first_at is None:
        return overdue if late else "nothing falls due"
    at = time.strftime("%H:%M:%S", time.gmtime(coming.first_at))
    first = "a delayed event" if coming.first == DELAYED else coming.first
    before = f"{overdue}; " if late else ""
    return f"{before}{told}{' and more' if coming.is_more else ''} (first {at} UTC, {first})"
