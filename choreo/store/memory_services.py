"""The services, their workers and their bindings in memory."""

from collections.abc import Sequence

from choreo.events.patterns import Binding
from choreo.store.deployments import Applied, Retirement, Retiring, Step
from choreo.store.memory_content import MemoryPart, Roll, locked
from choreo.store.presence import SEEN_FOR, Presence, Program
from choreo.store.register import Declared, Listening


class MemoryServices(MemoryPart):
    """See the protocols of `choreo.store` for the guarantees of each method."""

    @locked
    def register(self, handlers: Sequence[str]) -> None:
        """Record these handlers."""
        self._handlers.update(handlers)

    @locked
    def handlers(self) -> list[str]:
        """Every handler that was ever registered, sorted."""
        return sorted(self._handlers)

    @locked
    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """Report that a worker lives and declares these bindings, and find the bindings that may be removed."""
        return self._registers[service].declare(self._clock(), worker, bindings, ttl, removed)

    @locked
    def declared(self, service: str) -> dict[str, list[Binding]]:
        """The live workers of a service, and the bindings that each declares."""
        workers, now = self._registers[service].workers, self._clock()
        return {name: sorted(bindings) for name, (until, bindings) in workers.items() if until > now}

    @locked
    def listening(self, service: str) -> Listening | None:
        """The queues of this service that events reach; None if no worker of it has ever called `declare`."""
        return self._registers[service].listening(self._clock())

    @locked
    def apply(self, service: str, bindings: Sequence[Binding], seconds: float, *, is_made: bool = False) -> None:
        """Let these bindings count as declared for ``seconds``."""
        self._registers[service].apply(self._clock(), bindings, seconds, is_made=is_made)

    @locked
    def applied(self, service: str) -> Applied | None:
        """What was applied for a service, and still counts."""
        return self._registers[service].applied(self._clock())

    @locked
    def retire(self, service: str, queue: str, step: Step, record: str = "", seconds: float = 0.0) -> Retiring:
        """Make a step in the retirement of the handler with this queue."""
        return self._registers[service].retire(self._clock(), queue, step, record, seconds)

    @locked
    def retirements(self, service: str) -> list[Retirement]:
        """The marks of a service's handlers, by queue."""
        return [mark for _, (mark, _) in sorted(self._registers[service].marks.items())]

    @locked
    def forget(self, handler: str) -> bool:
        """Forget all that is kept of a handler, unless something of it is left."""
        drawer = self._drawers[handler]
        if drawer.calendar or drawer.letters:
            return False
        del self._drawers[handler]
        self._joins.pop(handler, None)
        self._handlers.discard(handler)
        return True

    @locked
    def report(
        self, service: str, program: Program, description: str, ttl: float, announced: Sequence[str] = ()
    ) -> None:
        """Report that this program lives for the next ``ttl`` seconds, and declares this."""
        roll, now = self._rolls[service], self._clock()
        roll.programs[program.name] = now + ttl, now, program
        roll.descriptions[program.digest] = description
        roll.tidy(now)
        if announced:
            roll.announce(announced, now)

    @locked
    def services(self) -> list[str]:
        """Every service that ever had a worker, or announced an event, sorted."""
        reported = {service for service, roll in self._rolls.items() if roll.programs}
        return sorted({name.partition(".")[0] for name in self._handlers} | reported)

    @locked
    def leave(self, service: str, program: str) -> None:
        """Report that this program ends."""
        roll, now = self._rolls[service], self._clock()
        if program in roll.programs:
            roll.programs[program] = now, now, roll.programs[program][2]
        roll.tidy(now)

    @locked
    def presence(self, service: str) -> Presence:
        """The programs of a service, and what they declare."""
        roll, now = self._rolls[service], self._clock()
        if roll.seen + SEEN_FOR <= now:
            roll = self._rolls[service] = Roll()
        programs = [
            # As text and back: in Redis a record is kept as text.
            Program.from_json(program.to_json(), name=name, seen=seen, is_alive=until > now)
            for name, (until, seen, program) in roll.programs.items()
        ]
        return Presence.of(programs, roll.descriptions, roll.announced)
