"""What all parts of the store in Redis share."""

from collections.abc import Sequence
from typing import Any

from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument
from choreo.store.calls import Calls
from choreo.store.schedule import Scheduled


class RedisPart:
    """A part of the store in Redis. `choreo.store.redis.RedisStore` makes the attributes."""

    prefix: str
    _calls: Calls
    #: In milliseconds, that of the inbox.
    _retention: int

    def _key(self, name: str, *parts: str) -> str:
        return ":".join((self.prefix, f"{{{name}}}", *parts))

    def handlers(self) -> list[str]:
        """Every handler that was ever registered, sorted."""
        names = self._calls.ask(lambda client: client.smembers(f"{self.prefix}:handlers"))
        return sorted(name.decode() for name in names)

    def _run(self, name: str, keys: Sequence[Argument], args: Sequence[Any]) -> Any:
        return self._calls.run(Script.load(f"store/{name}"), keys, args)

    def _calendar(self, name: str) -> tuple[str, str]:
        return self._key(name, "due"), self._key(name, "messages")


def scheduled_args(scheduled: Scheduled) -> list[Any]:
    """The arguments of a script for a message that it schedules."""
    return [scheduled.id, ms(scheduled.delay), scheduled.message.to_json()]


def ms(seconds: float) -> int:
    """Milliseconds."""
    return round(seconds * 1000)
