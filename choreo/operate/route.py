"""The route of a replay: refuses a handler that would never get the event."""

from collections.abc import Callable

from choreo.delivery.dead_letter import DeadLetter
from choreo.delivery.undeclared import is_handler, service_of
from choreo.errors import DeadLetterError
from choreo.events.patterns import matches
from choreo.store.port import Store
from choreo.store.register import Listening


class Route:
    """
    Knows which handlers can get a replayed event. It asks once who listens: make a new one to ask again.

    ``queue_of`` is a callback: it returns the name of a handler's queue.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store, self._queue_of = store, queue_of
        self._known: dict[str, Listening | None] = {}

    def check(self, letter: DeadLetter, to: str | None) -> None:
        """
        Raise `DeadLetterError` unless the letter can be replayed.

        ``to`` is the handler to which it is sent; None is the handler that failed.
        """
        if to is not None:
            self._check_named(letter, to)
        elif is_handler(letter.handler):
            self._check_own(letter)

    def _listening(self, service: str) -> Listening | None:
        if service not in self._known:
            self._known[service] = self._store.listening(service)
        return self._known[service]

    def _check_own(self, letter: DeadLetter) -> None:
        handler, service = letter.handler, service_of(letter.handler)
        listening, queue = self._listening(service), self._queue_of(letter.handler)
        if listening is None:
            return
        way_out = (
            f"`choreo dead-letters replay {letter.id} --to {self._successor(letter, listening)}` (in Python: to=...)"
        )
        if queue not in listening.queues:
            raise DeadLetterError(
                f"No worker of {service} declares {handler} any more, so no worker would read the event. If the "
                f"handler was renamed, send the event to its new name: {way_out}. Or declare it again: name="
                f'"{handler.partition(".")[2]}".'
            )
        has_it = [queue in declared for declared in listening.workers]
        if any(has_it) and not all(has_it):
            raise DeadLetterError(
                f"Some live workers of {service} declare {handler}, and others do not: a new version is being "
                f"deployed, or a worker has just died. Try again in a minute, or name the handler: {way_out}."
            )

    def _hint(self, to: str, service: str, listening: Listening | None) -> str:
        meant = [name for name in self._store.handlers() if name.rpartition(".")[2] == to]
        if meant:
            return f"Did you mean {' or '.join(meant)}?"
        return f"{service} has {', '.join(self._handlers_of(service, listening)) or 'none'}. Write SERVICE.HANDLER."

    def _check_named(self, letter: DeadLetter, to: str) -> None:
        service, queue = service_of(to), self._queue_of(to)
        listening = self._listening(service)
        patterns = [] if listening is None else sorted(bound for name, bound in listening.bindings if name == queue)
        if not patterns:
            raise DeadLetterError(f"{to!r} is no handler that a worker declares. {self._hint(to, service, listening)}")
        for envelope in letter.envelopes:
            if to != letter.handler and not any(matches(pattern, envelope.type) for pattern in patterns):
                raise DeadLetterError(f"{to} does not listen to {envelope.type}. It listens to {', '.join(patterns)}.")

    def _successor(self, letter: DeadLetter, listening: Listening) -> str:
        """A handler of the same service that listens to the event: most likely the new name. Else a placeholder."""
        types = {envelope.type for envelope in letter.envelopes}
        for name in self._handlers_of(service_of(letter.handler), listening):
            patterns = [bound for queue, bound in listening.bindings if queue == self._queue_of(name)]
            if types and all(any(matches(pattern, heard) for pattern in patterns) for heard in types):
                return name
        return "SERVICE.HANDLER"

    def _handlers_of(self, service: str, listening: Listening | None) -> list[str]:
        """The handlers of this service that have a binding, sorted."""
        queues = frozenset[str]() if listening is None else listening.queues
        return [
            name for name in self._store.handlers() if service_of(name) == service and self._queue_of(name) in queues
        ]
