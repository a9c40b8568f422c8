"""The schedules in Redis. The scripts that commit fill them: see settle.lua."""

from collections.abc import Sequence
from typing import Any

from choreo.events.message import Message
from choreo.store.failures import FORGOTTEN_AFTER
from choreo.store.redis_part import RedisPart, ms, scheduled_args
from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, Backlog, Hurried, Kept, Scheduled, Unreadable

#: How a schedule id that is no UTF-8 becomes a text, and bytes again.
_ESCAPED = "surrogateescape"
#: How many entries of a schedule one script looks at: that takes a millisecond or two.
_GLANCE = 1000


class RedisSchedule(RedisPart):
    """See `choreo.store.schedule` for the methods."""

    def schedule(self, name: str, scheduled: Scheduled) -> None:
        """Keep a message for later."""
        self._run("schedule", self._calendar(name), scheduled_args(scheduled))

    def unschedule(self, name: str, schedule_id: str) -> bool:
        """Remove a message that no worker has been given yet. False when it is too late, or there is none."""
        return bool(self._run("unschedule", self._calendar(name), [schedule_id]))

    def now(self) -> float:
        """Seconds since 1970, by the server's clock."""
        # In a cluster, of the node that has the delayed events.
        return self._calls.time(self._calendar(DELAYED)[0])

    def tend(self, name: str, seconds: float) -> None:
        """Report that a worker looks into this schedule, and will for ``seconds``."""
        self._calls.ask(lambda client: client.set(self._key(name, "tended"), 1, px=ms(seconds)))

    def tended(self, name: str) -> bool:
        """True if a worker looks into this schedule."""
        return bool(self._calls.ask(lambda client: client.exists(self._key(name, "tended"))))

    def ripe(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules in which a message is due."""
        first = "0 +inf WITHSCORES LIMIT 0 1".split()
        looks = [("ZRANGEBYSCORE", self._calendar(name)[0], *first) for name in names]
        answers = self._calls.timed(looks)
        return [name for name, (now, answer) in zip(names, answers, strict=True) if _is_due(answer, now)]

    def with_entries(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules among these that have entries, or cannot be looked at."""
        answers = self._calls.timed([("EXISTS", self._calendar(name)[0]) for name in names]) if names else []
        return [name for name, (_, answer) in zip(names, answers, strict=True) if answer != 0]

    def due(self, name: str, limit: int, hold: float) -> list[tuple[str, Message | Unreadable | None]]:
        """Up to ``limit`` messages that are due. They are due again after ``hold`` seconds unless `sent` is called."""
        answer = self._run("due", self._calendar(name), [limit, ms(hold)])
        # Another program may have put any bytes there.
        entries = [(key.decode(errors=_ESCAPED), text) for key, text in zip(answer[::2], answer[1::2], strict=True)]
        return [(key, _entry(key, text)) for key, text in entries]

    def sent(self, name: str, ids: Sequence[str]) -> None:
        """Remove messages that the broker has. A deadline stays, as one that was sent."""
        if strange := [key for key in ids if not is_utf8(key)]:
            self._remove(name, [key.encode(errors=_ESCAPED) for key in strange])
        if plain := [key for key in ids if key not in strange]:
            self._run("sent", self._calendar(name), plain)

    def _remove(self, name: str, ids: Sequence[bytes]) -> None:
        """Remove entries whose ids a script cannot be called with."""
        due, messages = self._calendar(name)
        self._calls.ask(lambda client: client.zrem(due, *ids))
        self._calls.ask(lambda client: client.hdel(messages, *ids))

    def backlog(self, name: str) -> Backlog:
        """How much waits in the schedule."""
        due, messages = self._calendar(name)
        now = self._calls.time(due) * 1000

        def count(pipeline: Any) -> None:
            pipeline.zcount(due, 0, now)
            pipeline.zrangebyscore(due, 0, now, start=0, num=1, withscores=True)
            pipeline.zcount(due, f"({now}", "+inf")
            pipeline.zrangebyscore(due, f"({now}", "+inf", start=0, num=1, withscores=True)
            pipeline.zcount(due, "-inf", "(0")
            pipeline.hlen(messages)

        ready, first, later, following, reminded, messages_there = self._calls.together(count)
        late = max(now - first[0][1], 0) / 1000 if first else 0.0
        # A deadline is the only entry that has no message.
        joins = max(ready + later + reminded - messages_there, 0)
        return Backlog(ready, late, later, following[0][1] / 1000 if following else None, reminded, joins)

    def entries(self, name: str, limit: int, after: tuple[float, str] = (0.0, "")) -> list[Kept]:
        """Up to ``limit`` entries, by their due time and then by their id, which follow this due time and id."""
        due, last = after
        # A time has half a millisecond at most.
        answer = self._run("entries", self._calendar(name), [limit, round(due * 2000) / 2, last])
        return [_kept(*row) for row in zip(answer[::3], answer[1::3], answer[2::3], strict=True)]

    def find_entry(self, name: str, mark: str) -> Kept | None:
        """The entry with this `entry_mark`; None if there is none."""
        place, looked = 0, _GLANCE
        while looked == _GLANCE:
            looked, *found = self._run("find_entry", self._calendar(name), [name, mark, place, _GLANCE])
            if found:
                return _kept(*found) if float(found[1]) >= 0 else None
            place += looked
        return None

    def hurry(self, name: str, schedule_id: str) -> Hurried:
        """Let an entry fall due now, unless a worker was given it."""
        return Hurried(self._run("hurry", self._calendar(name)[:1], [schedule_id]).decode())

    def upcoming(self, name: str, seconds: float, limit: int) -> list[tuple[str, float]]:
        """Ids of entries that fall due within so many seconds, and when: the first ``limit`` of them."""
        due = self._calendar(name)[0]
        now = self._calls.time(due) * 1000
        found = self._calls.ask(
            lambda client: client.zrangebyscore(due, f"({now}", now + seconds * 1000, 0, limit, withscores=True)
        )
        return [(key.decode(errors=_ESCAPED), at / 1000) for key, at in found]

    def note_held(self, handler: str, schedule_id: str) -> None:
        """Remember that this entry of the handler's schedule waits for the end of the handler's pause."""
        key = self._key(handler, "held")

        def note(client: Any) -> None:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.rpush(key, schedule_id)
                pipeline.pexpire(key, ms(FORGOTTEN_AFTER))
                pipeline.execute()

        self._calls.ask(note)

    def hasten_held(self, handler: str, most: int | None = None) -> int:
        """Let the entries that wait for the end of a pause fall due now."""
        keys = [self._key(handler, "held"), self._calendar(handler)[0]]
        return int(self._run("hasten_held", keys, [most or 0]))


def _is_due(first: Any, now: Any) -> bool:
    """True if the first entry of a schedule is due: [[id, score]] or, in the older protocol RESP2, [id, score]."""
    if isinstance(first, Exception) or isinstance(now, Exception):
        return True  # `due` will then raise the error
    entry = first[0] if first and isinstance(first[0], list) else first
    # The half: see due.lua.
    return bool(entry) and float(entry[1]) <= int(now[0]) * 1000 + int(now[1]) // 1000 + 0.5


def _kept(key: bytes, time: bytes, text: bytes) -> Kept:
    name, at = key.decode(errors=_ESCAPED), float(time)
    # The half: see due.lua.
    return Kept(name, at / 1000, _entry(name, text), is_leaving=at % 1 != 0)


def _entry(key: str, text: bytes) -> Message | Unreadable | None:
    """One entry of a schedule; None for a join's deadline, which has no message."""
    if not text and key.startswith(DEADLINE_PREFIX):
        return None
    try:
        return Message.from_json(text)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        return Unreadable(text, f"it cannot be read: {type(error).__name__}: {error}")


def is_utf8(text: str) -> bool:
    """True if a script can be called with this id."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
