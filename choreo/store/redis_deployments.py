"""The bindings of each service in Redis: who declares them, which were applied, which are retired."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from choreo.events.patterns import Binding
from choreo.redis_client.scripts import Script
from choreo.store.calls import Calls
from choreo.store.deployments import Applied, Retirement, Retiring, Step
from choreo.store.register import Declared

#: How many keys one call forgets, and about how many one SCAN looks at.
PAGE, SCANNED = 500, 2000


class RedisDeployments:
    """
    The part of the store that `Register.declare` and `choreo.store.deployments.Deployments` promise.

    ``key`` is a callback: it makes the name of a key of a service or a handler.
    """

    def __init__(self, calls: Calls, key: Callable[..., str]) -> None:
        self._calls, self._key = calls, key

    def _keys(self, service: str, *names: str) -> list[str]:
        return [self._key(service, name) for name in names]

    def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self._calls.run(Script.load(f"store/{script}"), keys, args)

    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """Report that a worker lives and declares these bindings, and find the bindings that may be removed."""
        keys = self._keys(service, "workers", "bindings", "queues", "retirements", "applied")
        args = [worker, _ms(ttl), len(bindings), *_lines([*bindings, *removed])]
        known, *lists, wait = self._run("declare", keys, args)
        stale, to_restore, drained, back = ([text.decode() for text in texts] for texts in lists)
        return Declared(
            bool(known),
            [pair(text) for text in sorted(stale)],
            [pair(text) for text in sorted(to_restore)],
            drained,
            [_mark(queue, text) for queue, text in zip(back[::2], back[1::2], strict=True)],
            wait / 1000,
        )

    def apply(self, service: str, bindings: Sequence[Binding], seconds: float, *, is_made: bool) -> None:
        """Let these bindings count as declared for ``seconds``."""
        keys = self._keys(service, "applied", "bindings", "queues", "retirements")
        self._run("apply", keys, [int(is_made), max(_ms(seconds), 1), *_lines(bindings)])

    def applied(self, service: str) -> Applied | None:
        """What was applied for a service, and still counts."""
        text = self._calls.ask(lambda client: client.get(self._key(service, "applied")))
        if text is None:
            return None
        is_made, *lines = text.decode().split("\n")
        return Applied(frozenset(map(pair, lines)), is_made == "1")

    def retire(self, service: str, queue: str, step: Step, record: str, seconds: float) -> Retiring:
        """Make a step in the retirement of the handler with this queue."""
        keys = self._keys(service, "workers", "bindings", "queues", "retirements", "applied")
        is_done, is_applied, *owners = self._run("retire", keys, [queue, step.value, record, _ms(seconds)])
        return Retiring(bool(is_done), [owner.decode() for owner in owners], bool(is_applied))

    def retirements(self, service: str) -> list[Retirement]:
        """The marks of a service's handlers, by queue."""
        marks = self._calls.ask(lambda client: client.hgetall(self._key(service, "retirements")))
        return [_mark(queue.decode(), text.decode(errors="replace")) for queue, text in sorted(marks.items())]

    def forget(self, handler: str, last: Sequence[str]) -> bool:
        """Forget the keys of a handler. False, and none is forgotten, if there is one of the ``last``."""
        names = self._names(handler)
        while True:
            some, names = names[:PAGE], names[PAGE:]
            if not self._run("forget_handler", [*last, *some], []):
                return False
            if not names:
                return True

    def _names(self, handler: str) -> list[str]:
        """The names of all keys of a handler: they have its hash tag."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", self._key(handler, "")) + "*"
        names = self._calls.ask(lambda client: list(client.scan_iter(pattern, count=SCANNED)))
        return [name.decode(errors="surrogateescape") for name in names]


def pair(text: str) -> Binding:
    """The binding that one line of a record stands for."""
    queue, _, pattern = text.partition(" ")
    return queue, pattern


def _mark(queue: str, text: str) -> Retirement:
    state, _, record = text.partition(" ")
    return Retirement(queue, record, state == "over")


def _lines(bindings: Sequence[Binding]) -> list[str]:
    return [" ".join(binding) for binding in bindings]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
