"""What is stuck, by cause, with the next step for each. Reads only."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from choreo.observe.failures import failures
from choreo.observe.handlers import LATE, HandlerState
from choreo.observe.overview import Overview
from choreo.observe.server import Server
from choreo.observe.words import span
from choreo.store.joins import JoinState
from choreo.store.parts import key_of
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
    #: The handler, DELAYED for events that were delayed outside of handlers, or ``Redis`` and the address of a server.
    what: str
    #: How many messages, joins or dead letters there are, or keys that were evicted.
    count: int
    #: One of a few texts, for programs as well.
    cause: str
    #: The next step; "" if there is none that a command could do.
    do: str = ""
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
    handlers, and servers that evict keys.
    """
    now = found.at.timestamp()
    everything = [one for state in found.handlers for one in _of(state, store, now)]
    if is_all:
        everything += [*_delayed(store, now), *_evicting(found.servers)]
    kept = [one for one in everything if one.since is None or one.since <= now - older]
    return sorted(kept, key=lambda one: (one.since is None, one.since or 0.0, one.what))


def _of(state: HandlerState, store: Store, now: float) -> Iterator[Stuck]:
    waiting = state.waiting or 0
    if waiting and (reason := _unread(state)):
        since = None if state.oldest is None else now - state.oldest
        yield Stuck(since, state.name, waiting, *reason, subjects=_named(state.subject))
    elif state.returned >= RETURNS:
        since = None if state.oldest is None else now - state.oldest
        detail = f"{state.returned} times: its worker died or gave it back"
        do = _SHOW_LOG.format(state.service)
        yield Stuck(since, state.name, 1, "comes back again and again", do, detail, _named(state.subject))
    if state.backlog.due and state.backlog.late > LATE:
        do = "" if state.is_undeclared else _start(state)
        yield Stuck(now - state.backlog.late, state.name, state.backlog.due, "due, and no worker sends it", do)
    if state.backlog.reminded:
        yield from _overdue(state.name, store, now)
    if state.dead_letters:
        yield from _letters(state, store, now)


def _unread(state: HandlerState) -> tuple[str, str, str] | None:
    """Why nobody reads the queue, the next step, and what else is known; None if somebody does."""
    if state.is_undeclared:
        return "no worker declares it any more", f"declare it again, name={state.name.partition('.')[2]!r}", ""
    if not state.living:
        seen = "" if state.unseen is None else f"the last was seen {span(state.unseen)} ago"
        return "no worker lives", _start(state), seen
    if not state.workers:
        add = f"celery -A {state.module or '...'} control add_consumer {state.queue}"
        return "no worker consumes its queue", f"start a worker without -Q, or: {add}", ""
    return None


def _start(state: HandlerState) -> str:
    return f"celery -A {state.module} worker" if state.module else f"celery -A ... worker   # of {state.service}"


_SHOW_LOG = "look into the log of the workers of {}; choreo dead-letters list shows it soon"


def _overdue(handler: str, store: Store, now: float) -> Iterator[Stuck]:
    """The joins whose deadline was sent to their handler, and that are not settled."""
    overdue: list[JoinState] = []
    units, _ = store.pending(handler, MOST_JOINS)
    for unit in units:
        seen = store.look(handler, unit)
        if seen is not None and seen.is_overdue and seen.deadline < now - LATE:
            overdue.append(seen)
    if overdue:
        since = min(seen.deadline for seen in overdue)
        subjects = tuple(key_of(seen.unit) or seen.unit for seen in overdue[:3])
        kind = "stories" if "story" in json.loads(store.joins().get(handler, "{}")) else "joins"
        yield Stuck(since, handler, len(overdue), f"{kind} overdue", f"choreo {kind} list {handler}", subjects=subjects)


def _letters(state: HandlerState, store: Store, now: float) -> Iterator[Stuck]:
    """One for each error."""
    oldest = None if state.oldest_letter is None else now - state.oldest_letter
    do = f"choreo dead-letters list {state.name}"
    for one in failures(store, state.name, state.dead_letters, oldest):
        yield Stuck(one.since, state.name, one.count, "dead letters", do, one.error or "various errors")


def _delayed(store: Store, now: float) -> Iterator[Stuck]:
    waits = store.backlog(DELAYED)
    if waits.due and waits.late > LATE:
        do = "celery -A ... worker   # of any service"
        yield Stuck(now - waits.late, DELAYED, waits.due, "due, and no worker sends it", do)


def _evicting(servers: Iterable[Server]) -> Iterator[Stuck]:
    """The servers that have dropped keys, or may at any time: what they dropped waits for ever."""
    for server in servers:
        if server.evicted or (server.limit and server.has_evicting_policy):
            do = f"on {server.name}: redis-cli config set maxmemory-policy noeviction"
            yield Stuck(None, f"Redis {server.name}", server.evicted, "eviction", do, server.eviction)


def _named(subject: str) -> tuple[str, ...]:
    return (subject,) if subject else ()
