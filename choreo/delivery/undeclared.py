"""Undeclared handlers: no worker declares them any more, and something may still be able to reach them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from choreo.store.port import Store


@dataclass(frozen=True, slots=True)
class UndeclaredHandler:
    """A handler that no worker of its service declares any more: it was renamed or removed."""

    #: The name of the handler.
    handler: str
    #: The name of its queue.
    queue: str
    #: The number of messages in its queue. None: the broker did not answer.
    messages: int | None = 0
    #: The number of its dead letters.
    letters: int = 0
    #: The number of entries in its schedule: retries, delayed events, and deadlines of pending joins.
    scheduled: int = 0

    @property
    def is_reachable(self) -> bool:
        """True if something can still come to the queue, or is in it."""
        return self.messages != 0 or self.letters > 0 or self.scheduled > 0

    def __str__(self) -> str:
        """The things that are left: ``1 message in its queue, 2 dead letters``."""
        left = [
            "its queue cannot be read" if self.messages is None else _counted(self.messages, "message", "in its queue"),
            _counted(self.letters, "dead letter"),
            _counted(self.scheduled, "entry", "in its schedule", several="entries"),
        ]
        return ", ".join(filter(None, left)) or "nothing"


class UndeclaredHandlers:
    """
    The undeclared handlers of every service that uses one store.

    ``queue_of`` is a callback: it returns the name of a handler's queue. ``message_counts`` is a callback: it gets
    names of queues, and returns the number of messages in each queue that exists. It may raise anything.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        message_counts: Callable[[Sequence[str]], Mapping[str, int]],
    ) -> None:
        self._store, self._queue_of, self._message_counts = store, queue_of, message_counts

    def find(self, *services: str) -> list[UndeclaredHandler]:
        """
        Return the undeclared handlers that something can still reach: all, or those of these services.

        Raises `StoreError`.
        """
        names = self.names(*services)
        if not names:
            return []
        counts: Mapping[str, int] | None
        try:
            counts = self._message_counts([self._queue_of(name) for name in names])
        except Exception:  # the brokers' clients raise dozens of types
            counts = None
        found = [self._handler(name, counts) for name in names]
        return [handler for handler in found if handler.is_reachable]

    def names(self, *services: str) -> list[str]:
        """The names of all undeclared handlers, or of those of these services, sorted. Asks only the store."""
        seen: dict[str, frozenset[str] | None] = {}
        gone = []
        for name in filter(is_handler, self._store.handlers()):
            service = service_of(name)
            if services and service not in services:
                continue
            if service not in seen:
                listening = self._store.listening(service)
                seen[service] = None if listening is None else listening.queues
            queues = seen[service]
            if queues is not None and self._queue_of(name) not in queues:
                gone.append(name)
        return gone

    def _handler(self, name: str, counts: Mapping[str, int] | None) -> UndeclaredHandler:
        queue = self._queue_of(name)
        messages = None if counts is None else counts.get(queue, 0)
        return UndeclaredHandler(name, queue, messages, self._store.letter_count(name), self._store.backlog(name).total)


def service_of(name: str) -> str:
    """The service of this handler."""
    return name.partition(".")[0]


def is_handler(name: str) -> bool:
    """True for a handler; False for the other names that have dead letters: a service, and the queue of its notices."""
    # Not `choreo.delivery.notice.notices_of`, whose module a short command need not import.
    return "." in name and name.partition("/")[0] != f"{service_of(name)}.dead_letters"


def set_aside_for(service: str, letter_id: str) -> str:
    """A name for one dead letter that the store can keep under no other name of its service."""
    return f"{service}.dead_letters/{letter_id}"


def _counted(count: int, noun: str, where: str = "", several: str = "") -> str:
    if not count:
        return ""
    return " ".join(filter(None, [str(count), noun if count == 1 else several or f"{noun}s", where]))
