"""What is stuck, by cause, with the next step for each. Reads only."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from choreo.declare.description import kind_in
from choreo.observe.division import Division
from choreo.observe.failures import MOST_GROUPS, groups_of
from choreo.observe.handlers import LATE, HandlerState, retire
from choreo.observe.overview import Intake, Overview
from choreo.observe.resuming import is_open_breaker, resume
from choreo.observe.server import Server
from choreo.observe.words import span
from choreo.operate.which import Group
from choreo.store.joins import JoinState
from choreo.store.parts import key_of
from choreo.store.pauses import Pause
from choreo.store.port import Store
from choreo.store.schedule import DELAYED

#: A message that came back so often has most likely ended its workers.
RETURNS = 2
#: The most pending joins of one handler that are looked at.
MOST_JOINS = 200


@dataclass(frozen=True)
class Stuck:
    """Something that waits and does not go on."""

    #: When it began to wait, in seconds since 1970, as far as that is known. None: unknown.
    since: float | None
    #: The handler, a service whose live versions differ, DELAYED for events that were delayed outside of handlers, the
    #: queue of the intake, or ``Redis`` and the address of a server.
    what: str
    #: How many messages, joins or dead letters there are, keys that were evicted, or nodes.
    count: int
    #: One of a few texts, for programs as well.
    cause: str
    #: The next step, or several of which one will do. Empty: there is none that a command could do.
    do: Sequence[str] = ()
    #: What else is known of the cause; "" if nothing.
    detail: str = ""
    #: The subjects of some of them, if they are known.
    subjects: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def stuck_in(found: Overview, store: Store, older: float = 0.0, *, is_all: bool = True) -> list[Stuck]:
    """
    All that is stuck for longer than ``older`` seconds, the oldest first. Raises `StoreError`.

    What has no known beginning is always in the list. ``is_all`` includes the events that were delayed outside of
    handlers, those of the intake, and servers that evict keys.
    """
    now = found.at.timestamp()
    groups = groups_of(store, [state.name for state in found.handlers if state.dead_letters])
    everything = [one for state in found.handlers for one in _of(state, store, now, groups)]
    if is_all:
        everything += [*_delayed(store, now), *_untaken(found.intake), *_evicting(found.servers)]
    everything += _twice(found.divided)
    kept = [one for one in everything if one.since is None or one.since <= now - older]
    return sorted(kept, key=lambda one: (one.since is None, one.since or 0.0, one.what))


def _of(state: HandlerState, store: Store, now: float, groups: Mapping[str, Sequence[Group]]) -> Iterator[Stuck]:
    waiting = (state.waiting or 0) + _held(state)
    if waiting and (reason := _unread(state)):
        since = None if state.oldest is None else now - state.oldest
        if _held(state) and state.pause is not None:
            since = state.pause.since.timestamp()
        cause, do, detail = reason
        yield Stuck(since, state.name, waiting, cause, do, detail, _named(state.subject))
    elif state.returned >= RETURNS:
        since = None if state.oldest is None else now - state.oldest
        detail = f"{state.returned} times: its worker died or gave it back"
        do = [step.format(state.service) for step in _SHOW_LOG]
        yield Stuck(since, state.name, 1, "comes back again and again", do, detail, _named(state.subject))
    if state.backlog.due and state.backlog.late > LATE:
        do = [retire(state.name)] if state.is_undeclared else [_start(state)]
        yield Stuck(now - state.backlog.late, state.name, state.backlog.due, "due, and no worker sends it", do)
    if state.backlog.reminded:
        yield from _overdue(state.name, store, now)
    if state.dead_letters:
        yield from _letters(state, groups[state.name], now)


def _held(state: HandlerState) -> int:
    """The events that have failed and wait in the schedule because the breaker of the handler is open."""
    is_held = state.pause is not None and state.pause.is_stop and state.pause.error
    return max(state.backlog.later - state.backlog.joins, 0) if is_held else 0


def _unread(state: HandlerState) -> tuple[str, Sequence[str], str] | None:
    """Why nobody reads the queue, the next steps, and what else is known; None if somebody does."""
    if state.is_undeclared:
        again = f"declare it again, name={state.name.partition('.')[2]!r}"
        return "no worker declares it any more", [again, retire(state.name)], ""
    if not state.living:
        seen = "" if state.unseen is None else f"the last was seen {span(state.unseen)} ago"
        return "no worker lives", [_start(state)], seen
    if state.pause is not None and state.pause.is_stop:
        return "paused", _resume(state.pause), str(state.pause).partition(" is paused ")[2]
    if not state.workers:
        add = f"celery -A {state.module or '...'} control add_consumer {state.queue}"
        return "no worker consumes its queue", ["start a worker without -Q", add], ""
    return None


def _resume(pause: Pause) -> Sequence[str]:
    if is_open_breaker(pause):
        return [f"mend what {pause.handler} depends on: it then goes on by itself", f"{resume(pause)}   # to hurry"]
    return [resume(pause)]


def _start(state: HandlerState) -> str:
    return f"celery -A {state.module} worker" if state.module else f"celery -A ... worker   # of {state.service}"


_SHOW_LOG = ("look into the log of the workers of {}", "choreo dead-letters list   # shows it soon")


def _overdue(handler: str, store: Store, now: float) -> Iterator[Stuck]:
    """The joins whose deadline was sent to their handler, and that are not settled."""
    described = json.loads(store.joins().get(handler, "{}"))
    if kind_in(described) == "undo":
        return  # it waits for nothing that must come
    overdue: list[JoinState] = []
    units, _ = store.pending(handler, MOST_JOINS)
    for unit in units:
        seen = store.look(handler, unit)
        if seen is not None and seen.is_overdue and seen.deadline < now - LATE:
            overdue.append(seen)
    if overdue:
        since = min(seen.deadline for seen in overdue)
        subjects = tuple(key_of(seen.unit) or seen.unit for seen in overdue[:3])
        kind = "stories" if kind_in(described) == "story" else "joins"
        do = [f"choreo {kind} list {handler}"]
        yield Stuck(since, handler, len(overdue), f"{kind} overdue", do, subjects=subjects)


def _letters(state: HandlerState, groups: Sequence[Group], now: float) -> Iterator[Stuck]:
    """One for each of the largest groups, and one for all other letters."""
    told, rare = groups[:MOST_GROUPS], groups[MOST_GROUPS:]
    for group in told:
        do = [f"choreo dead-letters replay {group.id} --canary   # once the cause is mended"]
        yield Stuck(group.first.timestamp(), state.name, group.count, "dead letters", do, group.cause)
    others = state.dead_letters - sum(group.count for group in told)
    if others > 0:
        is_filed = others <= sum(group.count for group in rare)
        oldest = None if state.oldest_letter is None else now - state.oldest_letter
        since = min(group.first.timestamp() for group in rare) if is_filed else oldest
        do = [f"choreo dead-letters groups {state.name}"]
        yield Stuck(since, state.name, others, "dead letters", do, "various causes")


def _delayed(store: Store, now: float) -> Iterator[Stuck]:
    waits = store.backlog(DELAYED)
    if waits.due and waits.late > LATE:
        do = ["celery -A ... worker   # of any service"]
        yield Stuck(now - waits.late, DELAYED, waits.due, "due, and no worker sends it", do)


def _untaken(intake: Intake | None) -> Iterator[Stuck]:
    if intake is not None and intake.trouble:
        do = ["set choreo_intake = True in a service, and start a worker of it"]
        yield Stuck(None, intake.queue, intake.waiting, "no worker takes them over", do)


def _evicting(servers: Iterable[Server]) -> Iterator[Stuck]:
    """The servers that have dropped keys, or may at any time: what they dropped waits for ever."""
    for server in servers:
        if server.evicted or (server.limit and server.has_evicting_policy):
            do = [f"on {server.name}: redis-cli config set maxmemory-policy noeviction"]
            yield Stuck(None, f"Redis {server.name}", server.evicted, "eviction", do, server.eviction)


def _twice(divided: Iterable[Division]) -> Iterator[Stuck]:
    """The services of which two live versions handle the same events."""
    for one in divided:
        if one.twice:
            nodes = sum(len(side.nodes) for side in one.sides)
            do = ["stop the workers of one of the versions:", "choreo top " + one.service]
            yield Stuck(None, one.service, nodes, "live versions handle one event twice", do, one.trouble)


def _named(subject: str) -> tuple[str, ...]:
    return (subject,) if subject else ()
