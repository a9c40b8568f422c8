"""Searches the store in Redis. It reads in pages, so that the server is never busy with it for long."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from choreo.events.message import Message
from choreo.redis_client.scripts import Script
from choreo.store.redis_part import RedisPart
from choreo.store.schedule import Kept
from choreo.store.search import MOST, KeptUnit, needles

#: About how many entries one call looks at: on the server, in a millisecond or two.
PAGE = 500
#: How many keys are looked at for namespaces.
MOST_KEYS = 500_000


class RedisSearch(RedisPart):
    """See `choreo.store.search.Search` for the methods."""

    def find_scheduled(self, name: str, texts: Sequence[str], most: int = MOST) -> tuple[list[Kept], bool]:
        """The messages in this schedule that contain one of the texts; True if all were looked at."""
        found, is_whole = self._find(self._key(name, "messages"), texts, most)
        if not found:
            return [], is_whole
        dues = self._calls.ask(lambda client: client.zmscore(self._key(name, "due"), [key for key, _ in found]))
        return list(_kept(found, dues)), is_whole

    def find_letters(self, handler: str, texts: Sequence[str], most: int = MOST) -> tuple[list[str], bool]:
        """The dead letters of this handler, as JSON, that contain one of the texts; True if all were looked at."""
        found, is_whole = self._find(self._key(handler, "letters"), texts, most)
        return [text.decode(errors="replace") for _, text in found], is_whole

    def unit(self, handler: str, unit: str) -> KeptUnit | None:
        """A unit that has begun and is not finished; None if there is none, or it is finished."""
        key = self._key(handler, "unit", unit)
        names = ("done", "settled", "deliveries", "token", "inflight", "before", "ended")
        done, settled, begun, token, inflight, before, ended = (
            (field or b"").decode(errors="replace")
            for field in self._calls.ask(lambda client: client.hmget(key, list(names)))
        )
        if done or not (settled or begun or token):
            return None
        return KeptUnit(_number(settled), _number(begun), inflight or token, before, ended.partition(" ")[2])

    def namespaces(self) -> list[str] | None:
        """The namespaces of the platforms on this server, sorted; None if there are too many keys to look at."""
        prefix = self.prefix.partition(":")[0]

        def look(client: Any) -> list[str] | None:
            if client.dbsize() > MOST_KEYS:
                return None
            found = client.scan_iter(match=f"{prefix}*:services", count=2000)
            names = (re.fullmatch(rf"{re.escape(prefix)}(?::(.+))?:services", key.decode()) for key in found)
            return sorted({name[1] or "" for name in names if name and "{" not in (name[1] or "")})

        return self._calls.ask(look)

    def _find(self, key: str, texts: Sequence[str], most: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        sought = needles(texts)

        found: dict[bytes, bytes] = {}
        cursor, seen = b"0", 0
        while seen < most:
            cursor, looked, *page = self._calls.run(Script.load("store/find"), [key], [cursor, PAGE, *sought])
            seen += looked
            found |= dict(zip(page[::2], page[1::2], strict=True))
            if cursor == b"0":
                return list(found.items()), True
        return list(found.items()), False


def _kept(found: Sequence[tuple[bytes, bytes]], dues: Sequence[float | None]) -> Iterator[Kept]:
    for (key, text), due in zip(found, dues, strict=True):
        # Without a time it has just left.
        if due is not None:
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                yield Kept(key.decode(), abs(due) / 1000, Message.from_json(text), is_leaving=due % 1 != 0)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
