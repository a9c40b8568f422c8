"""The programs of each service in Redis: who lives, who lived, and what they declare."""

from collections.abc import Callable, Sequence
from typing import Any

from choreo.redis_client.scripts import Script
from choreo.store.calls import Calls
from choreo.store.presence import MOST_GONE, MOST_SEEN, SEEN_FOR, Presence, Program

#: The ends of the names of a service's keys in report.lua.
_KEYS = ("programs", "descriptions", "announced")


class RedisPrograms:
    """
    The part of the register that `choreo.store.register.Register` promises of programs.

    ``key`` is a callback: it makes the name of a key of a service. ``services`` is the key of the set of all services.
    """

    def __init__(self, calls: Calls, key: Callable[..., str], services: str) -> None:
        self._calls, self._key, self._services = calls, key, services

    def report(
        self, service: str, program: Program, description: str, ttl: float, announced: Sequence[str] = ()
    ) -> None:
        """Report that this program lives for the next ``ttl`` seconds, and declares this."""
        # First: a service that nobody finds would be as good as not reported.
        self._calls.ask(lambda client: client.sadd(self._services, service))
        node = " ".join(program.node.split())
        self._report(service, program.name, ttl, [node, program.to_json(), program.digest, description], announced)

    def leave(self, service: str, program: str) -> None:
        """Report that this program ends."""
        self._report(service, program, 0.0, ["", "", "", ""])

    def presence(self, service: str) -> Presence:
        """The programs of a service, and what they declare."""
        keys = self._keys(service)

        def look(pipeline: Any) -> None:
            for key in keys:
                pipeline.hgetall(key)

        (records, descriptions, announced), seconds = self._calls.together(look), self._calls.time(keys[0])
        return Presence.of(
            [one for name, record in records.items() if (one := _program(_text(name), _text(record), seconds))],
            {_text(digest): _text(text) for digest, text in descriptions.items()},
            {_text(kind): int(when) / 1000 for kind, when in announced.items() if when.isdigit()},
        )

    def services(self) -> set[str]:
        """Every service of which a program ever reported."""
        return {_text(name) for name in self._calls.ask(lambda client: client.smembers(self._services))}

    def _keys(self, service: str) -> list[str]:
        return [self._key(service, part) for part in _KEYS]

    def _report(
        self, service: str, name: str, ttl: float, record: Sequence[str], announced: Sequence[str] = ()
    ) -> None:
        limits = [MOST_GONE, MOST_SEEN, round(SEEN_FOR * 1000)]
        args = [name, round(ttl * 1000), *record, *limits, *announced]
        self._calls.run(Script.load("store/report"), self._keys(service), args)


def _text(read: bytes) -> str:
    return read.decode(errors="replace")


def _program(name: str, text: str, now: float) -> Program | None:
    """A program; None if another program has written something else there."""
    lines = text.split("\n", 4)
    if len(lines) != 5 or not (lines[0].isdecimal() and lines[1].isdecimal()):
        return None
    until, seen, _, _, record = lines
    return Program.from_json(record, name=name, seen=int(seen) / 1000, is_alive=int(until) / 1000 > now)
