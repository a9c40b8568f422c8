"""The bindings of one service in the store in memory: who declares them, which were applied, which are retired."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from choreo.events.patterns import Binding
from choreo.store.deployments import Applied, Retirement, Retiring, Step
from choreo.store.register import Declared, Listening


@dataclass
class MemoryRegister:
    """The workers of one service with their bindings, and all bindings that may exist. Times are in seconds."""

    workers: dict[str, tuple[float, frozenset[Binding]]] = field(default_factory=dict)
    bindings: set[Binding] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)
    #: Queue → the mark of its handler, and the time until which the queue is being deleted.
    marks: dict[str, tuple[Retirement, float]] = field(default_factory=dict)
    #: What was applied, and until when it counts.
    last: tuple[Applied, float] | None = None

    def declare(
        self, now: float, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding]
    ) -> Declared:
        """See `choreo.store.register.Register.declare`."""
        living = {name: entry for name, entry in self.workers.items() if entry[0] > now}
        known = living.pop(worker, None) is not None
        queues = dict.fromkeys(queue for queue, _ in bindings) if ttl > 0 else {}
        marked = {queue: self.marks[queue] for queue in queues if queue in self.marks}
        wait = max((until - now for _, until in marked.values() if until > now), default=0.0)
        if wait and not known:
            self.workers = living
            return Declared(wait=wait)
        back = [] if known else [mark for mark, _ in marked.values()]
        for mark in back:
            del self.marks[mark.queue]
        if ttl > 0:
            living[worker] = now + ttl, frozenset(bindings)
            self._know(binding for binding in bindings if binding[0] not in self.marks)
        self.workers = living
        live = self._live(now)
        self.bindings.difference_update(set(removed) - live)
        return Declared(
            known=known,
            stale=sorted(self.bindings - live),
            to_restore=sorted(set(removed) & live),
            drained=[queue for queue in marked if known],
            called_back=back,
        )

    def _know(self, bindings: Iterable[Binding]) -> None:
        made = set(bindings)
        self.bindings |= made
        self.queues |= {queue for queue, _ in made}

    def _live(self, now: float) -> set[Binding]:
        """The bindings that somebody declares, and whose handler is not retired."""
        applied = self.applied(now)
        declared = set(applied.bindings if applied else ())
        declared.update(*(own for until, own in self.workers.values() if until > now))
        return {binding for binding in declared if binding[0] not in self.marks}

    def listening(self, now: float) -> Listening | None:
        """See `choreo.store.register.Register.listening`."""
        live = [own for until, own in self.workers.values() if until > now]
        if not live and not self.queues:
            return None
        return Listening(frozenset(self.bindings), [frozenset(queue for queue, _ in own) for own in live])

    def apply(self, now: float, bindings: Sequence[Binding], seconds: float, *, is_made: bool) -> None:
        """See `choreo.store.deployments.Deployments.apply`."""
        self.last = Applied(frozenset(bindings), is_made), now + seconds
        self._know(bindings)
        for queue, _ in bindings:
            self.marks.pop(queue, None)

    def applied(self, now: float) -> Applied | None:
        """See `choreo.store.deployments.Deployments.applied`."""
        return self.last[0] if self.last and self.last[1] > now else None

    def retire(self, now: float, queue: str, step: Step, record: str, seconds: float) -> Retiring:
        """See `choreo.store.deployments.Deployments.retire`."""
        owners = [
            name
            for name, (until, own) in self.workers.items()
            if until > now and any(bound == queue for bound, _ in own)
        ]
        applied = self.applied(now)
        is_applied = applied is not None and any(bound == queue for bound, _ in applied.bindings)
        mark, _ = self.marks.get(queue, (None, 0.0))
        is_refused = is_applied or (step is not Step.DRAIN and bool(owners))
        if step is Step.CANCEL:
            is_done = self.marks.pop(queue, None) is not None
        elif is_refused or (mark is None and step in (Step.DELETE, Step.END)):
            is_done = False
        else:
            mark, is_done = mark or Retirement(queue, record), True
            if step in (Step.BEGIN, Step.DRAIN):
                mark = Retirement(queue, record)
            is_over = step is Step.END
            self.marks[queue] = replace(mark, is_over=is_over), now + seconds if step is Step.DELETE else 0.0
            if is_over:
                self.queues.discard(queue)
                self.bindings = {binding for binding in self.bindings if binding[0] != queue}
        return Retiring(is_done, owners, is_applied)
