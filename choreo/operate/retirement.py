"""Retirements: removes a handler that no code declares any more, with its queue and its state, and loses nothing."""

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from kombu import Connection

from choreo.broker.depths import Depth
from choreo.declare.description import kind_in
from choreo.delivery.ports import Ports
from choreo.delivery.undeclared import is_handler, service_of
from choreo.errors import DeadLetterError, TopologyError
from choreo.events.patterns import Binding
from choreo.guesses import hint
from choreo.operate.leftovers import Elsewhere, Leftovers, own_entries
from choreo.operate.repairs import Repairs, this_person
from choreo.operate.topology import Queues
from choreo.store.deployments import Retiring, Step
from choreo.store.port import Store

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is left.
PAUSE = 0.3
#: Seconds within which a queue is deleted. A worker that declares its handler waits so long before it makes it anew.
DELETION = 15.0
#: The most pending joins that are counted.
MOST_JOINS = 1000


class Broker(Protocol):
    """`choreo.broker.bindings.Bindings`, as this file needs it."""

    def remove(self, bindings: Sequence[Binding]) -> None:
        """Remove bindings."""

    def delete(self, queue: str) -> int:
        """Delete an empty queue. Returns the number of messages that were lost with it."""


@dataclass(frozen=True)
class Left:
    """What is left of a handler that is being retired."""

    #: The number of messages in its queue, and of those that workers hold.
    waiting: int = 0
    held: int = 0
    #: Entries of its schedule that would go to its queue, and pending joins or stories.
    scheduled: int = 0
    joins: int = 0
    dead_letters: int = 0
    #: Entries of its schedule that go elsewhere: events that it has announced, and notices of its dead letters.
    announced: int = 0
    #: The live workers that declare it.
    owners: Sequence[str] = ()
    #: True if it undoes effects. Failures whose effects have not come are kept with their keys, and are never moved.
    is_undo: bool = False
    #: How much was moved so far.
    moved: int = 0
    #: True once the queue is deleted, and once nothing is kept of the handler.
    is_deleted: bool = False
    is_forgotten: bool = False

    @property
    def is_empty(self) -> bool:
        """True if nothing waits for the handler."""
        return not (self.waiting or self.held or self.scheduled or self.joins)

    def __str__(self) -> str:
        """What waits: ``12 messages, 1 retry``."""
        texts = [
            _counted(self.waiting, "message"),
            _counted(self.held, "message in hand", "messages in hand"),
            _counted(self.scheduled, "entry of its schedule", "entries of its schedule"),
            _counted(self.joins, "pending join"),
            _counted(self.dead_letters, "dead letter"),
            _counted(len(self.owners), "live worker"),
        ]
        return ", ".join(filter(None, texts)) or "nothing"


class Retirements:
    """
    Retires handlers of every service that uses one store.

    ``acting`` is a callback: it returns the ports of a service. ``connect`` is a callback: it opens a connection to the
    broker. The methods raise `TopologyError`, `StoreError` and the broker's errors.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        depths: Queues,
        acting: Callable[[str], Ports],
        connect: Callable[[], Connection],
        repairs: Repairs,
    ) -> None:
        self._store, self._broker, self._depths = store, broker, depths
        self._acting, self._connect, self._repairs = acting, connect, repairs

    def look(self, handler: str) -> Left:
        """What is left of a handler. Changes nothing. Raises `TopologyError` for a name that is no known handler."""
        self._check_known(handler)
        with closing(self._depths):
            return self._look(handler)

    def cancel(self, handler: str, *, reason: str = "", who: str = "") -> None:
        """Let a handler that is being retired go on. Live workers that declare it bind its queue again soon."""
        ports = self._acting(service_of(handler))
        if not self._store.retire(service_of(handler), ports.queue_of(handler), Step.CANCEL).is_done:
            raise TopologyError(f"{handler} is not being retired.")
        self._repairs.note("kept", handler, 1, reason, who)

    def retire(
        self,
        handler: str,
        *,
        drain: bool = False,
        to: str = "",
        to_dead_letters: bool = False,
        reason: str = "",
        who: str = "",
    ) -> Generator[Left, None, None]:
        """
        Unbind the queue of a handler, wait until nothing is left of it, and delete it. Yields what is left.

        The iteration can end after each step, also with the process: another call goes on. ``drain`` begins although
        live workers declare the handler: they work off its queue. ``to`` names the handler that gets what waits;
        ``to_dead_letters`` makes dead letters of it, which stay until they are replayed or discarded. In the end all
        that is kept of the handler is forgotten, unless dead letters stay.

        Raises `TopologyError`, and deletes nothing, if something is left that nobody takes away.
        """
        self._check_known(handler)
        who = who or this_person()
        record = f"by {who}, {datetime.fromtimestamp(self._store.now(), UTC):%Y-%m-%d %H:%M} UTC"
        record = f"{record}: {reason}" if reason else record
        where = Elsewhere(to, f"{handler} was retired {record}") if to or to_dead_letters else None
        with closing(self._depths):
            left = self._look(handler)
            self._check_beginning(handler, left, to, drain=drain, to_dead_letters=to_dead_letters)
            self._begin(handler, record, drain=drain)
            for now in self._emptied(handler, where):
                left = now
                yield now
            is_over = self._is_over(handler)
            self._delete(handler)
        if not is_over:
            self._repairs.note("retired", handler, left.moved, reason, who)
        left = replace(left, is_deleted=True, is_forgotten=not left.dead_letters and self._store.forget(handler))
        yield left

    # -- steps -----------------------------------------------------------------------------------------------------

    def _begin(self, handler: str, record: str, *, drain: bool) -> None:
        service, queue = service_of(handler), self._queue_of(handler)
        if not self._is_over(handler):
            answer = self._store.retire(service, queue, Step.DRAIN if drain else Step.BEGIN, record)
            if not answer.is_done:
                raise _refused(handler, answer)
        listening = self._store.listening(service)
        bound = sorted(one for one in (listening.bindings if listening else ()) if one[0] == queue)
        if bound:
            self._broker.remove(bound)
            # Nobody's declaration counts any more, so that the register forgets them.
            self._store.declare(service, "choreo topology retire", (), 0, removed=bound)

    def _emptied(self, handler: str, where: Elsewhere | None) -> Iterator[Left]:
        """Move what waits, or wait for the workers that take it, until nothing is left and nobody declares it."""
        moved = 0
        leftovers = Leftovers(self._acting(service_of(handler)), handler, self._connect, where or Elsewhere())
        with closing(leftovers):
            while True:
                step = self._moved(handler, leftovers) if where is not None else 0
                moved += step
                left = replace(self._look(handler), moved=moved)
                self._check_mark(handler, left)
                yield left
                if left.is_empty and not left.owners:
                    self._check_letters(handler, left, may_stay=where is not None and not where.to)
                    if self._may_delete(handler):
                        return
                if where is None and not left.owners and not left.held and not left.is_empty:
                    raise _nobody_takes(handler, left)
                if not step:
                    time.sleep(PAUSE)

    def _moved(self, handler: str, leftovers: Leftovers) -> int:
        try:
            return leftovers.move()
        except DeadLetterError as error:
            left = self._look(handler)
            raise TopologyError(
                f"{error} Left: {left}. Nothing is lost: name another handler, or make dead letters of the rest: "
                f"`choreo topology retire {handler} --move-to-dead-letters`."
            ) from error

    def _may_delete(self, handler: str) -> bool:
        """From now on a worker that declares the handler waits. True if still nothing is left."""
        service, queue = service_of(handler), self._queue_of(handler)
        if self._is_over(handler):
            return True
        if not self._store.retire(service, queue, Step.DELETE, seconds=DELETION).is_done:
            return False
        return self._look(handler).is_empty

    def _delete(self, handler: str) -> None:
        service, queue = service_of(handler), self._queue_of(handler)
        if lost := self._broker.delete(queue):
            logger.error("%d messages came into %s while it was deleted, and are lost", lost, queue)
        if not self._is_over(handler):
            self._store.retire(service, queue, Step.END)

    # -- looking ---------------------------------------------------------------------------------------------------

    def _queue_of(self, handler: str) -> str:
        return self._acting(service_of(handler)).queue_of(handler)

    def _look(self, handler: str) -> Left:
        store, queue = self._store, self._queue_of(handler)
        ports = self._acting(service_of(handler))
        depth = self._depths.look([queue]).get(queue, Depth(0))
        own = own_entries(ports, handler)
        backlog = store.backlog(handler)
        owners = [name for name, its in store.declared(service_of(handler)).items() if queue in dict(its)]
        units, _ = store.pending(handler, MOST_JOINS)
        joins = max(len(units), backlog.reminded)
        return Left(
            depth.count,
            # RabbitMQ does not count what consumers hold: there, each of them may hold something.
            depth.consumers or 0 if depth.held is None else depth.held,
            len(own),
            joins,
            store.letter_count(handler),
            max(backlog.total - len(own) - joins, 0),
            owners,
            kind_in(json.loads(store.joins().get(handler, "{}"))) == "undo",
        )

    def _is_over(self, handler: str) -> bool:
        queue = self._queue_of(handler)
        return any(mark.queue == queue and mark.is_over for mark in self._store.retirements(service_of(handler)))

    # -- refusing --------------------------------------------------------------------------------------------------

    def _check_known(self, handler: str) -> None:
        known = [name for name in self._store.handlers() if is_handler(name)]
        if handler in known:
            return
        for mark in self._store.retirements(service_of(handler)):
            if mark.queue == self._queue_of(handler) and mark.is_over:
                raise TopologyError(f"{handler} is retired already, {mark.record}.")
        raise TopologyError(f"No handler named {handler!r} is known. {hint(handler, known, 'Known are:')}")

    def _check_beginning(self, handler: str, left: Left, to: str, *, drain: bool, to_dead_letters: bool) -> None:
        if to:
            self._check_target(handler, to)
        if left.owners and not drain:
            raise _refused(handler, Retiring(False, left.owners))
        if left.dead_letters and not to_dead_letters:
            raise _has_letters(handler, left)

    def _check_target(self, handler: str, to: str) -> None:
        listening = self._store.listening(service_of(to))
        if to == handler or listening is None or self._acting(service_of(to)).queue_of(to) not in listening.queues:
            raise TopologyError(f"{to!r} is no other handler that a worker declares. Write SERVICE.HANDLER.")

    def _check_letters(self, handler: str, left: Left, *, may_stay: bool) -> None:
        if left.dead_letters and not may_stay:
            raise _has_letters(handler, left)

    def _check_mark(self, handler: str, left: Left) -> None:
        """Raise `TopologyError` if a worker that has just started has called the handler back."""
        queue = self._queue_of(handler)
        if all(mark.queue != queue for mark in self._store.retirements(service_of(handler))):
            who = f" by {', '.join(left.owners)}" if left.owners else ""
            raise TopologyError(
                f"{handler} was called back{who}: a worker that declares it has started, or somebody cancelled this. "
                f"It gets its events again, and nothing was deleted."
            )


def _refused(handler: str, answer: Retiring) -> TopologyError:
    if answer.owners:
        return TopologyError(
            f"{handler} is declared by {', '.join(answer.owners)}. Deploy a version without it first, and retire it "
            f"then. Or let these workers work off its queue while it gets no more events: `choreo topology retire "
            f"{handler} --drain`."
        )
    return TopologyError(
        f"{handler} was made by `choreo topology apply` a while ago, for workers that are about to start. Apply the "
        f"version without it first."
    )


def _has_letters(handler: str, left: Left) -> TopologyError:
    return TopologyError(
        f"{handler} has {_counted(left.dead_letters, 'dead letter')}. Send them to another handler: `choreo "
        f"dead-letters replay --handler {handler} --to SERVICE.HANDLER`. Or forget them: `choreo dead-letters discard "
        f"--handler {handler}`. To delete its queue and keep them: --move-to-dead-letters."
    )


def _nobody_takes(handler: str, left: Left) -> TopologyError:
    return TopologyError(
        f"{handler} still has {left}, and no worker that declares it lives. Its queue gets no more events, and nothing "
        f"was deleted. Send them to another handler: `choreo topology retire {handler} --redirect-to SERVICE.HANDLER`. "
        f"Or make dead letters of them: `choreo topology retire {handler} --move-to-dead-letters`. A worker that "
        f"declares it would call it back."
    )


def _counted(count: int, noun: str, several: str = "") -> str:
    return f"{count} {noun if count == 1 else several or f'{noun}s'}" if count else ""
