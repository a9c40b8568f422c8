"""The pauses of handlers in Redis."""

from collections.abc import Sequence
from typing import Any

from choreo.store.pauses import ANY, UNSET, Pause, Paused, stamp
from choreo.store.redis_part import RedisPart, ms, scheduled_args
from choreo.store.schedule import Scheduled


class RedisPauses(RedisPart):
    """See `choreo.store.pauses` for the methods."""

    def pause(
        self,
        pause: Pause,
        seconds: float | None = None,
        *,
        instead_of: Pause | None = ANY,
        scheduled: Sequence[Scheduled] = (),
        unscheduled: Sequence[str] = (),
    ) -> Paused:
        """Pause a handler, for so many seconds or until it is resumed, and replace the pause in force."""
        since = 0 if pause.since == UNSET else stamp(pause.since)
        record = [pause.to_json(), since, 0 if seconds is None else max(ms(seconds), 1)]
        return self._change_pause(pause.handler, instead_of, record, scheduled, unscheduled)

    def resume(
        self,
        handler: str,
        *,
        instead_of: Pause = ANY,
        scheduled: Sequence[Scheduled] = (),
        unscheduled: Sequence[str] = (),
    ) -> Pause | None:
        """End the pause of a handler. Returns it; None: there was none."""
        ended = self._change_pause(handler, instead_of, ["", 0, 0], scheduled, unscheduled)
        return ended.before if ended.is_done else None

    def _change_pause(
        self,
        handler: str,
        instead_of: Pause | None,
        record: Sequence[Any],
        scheduled: Sequence[Scheduled],
        unscheduled: Sequence[str],
    ) -> Paused:
        """Run pause.lua."""
        expected = "*" if instead_of is ANY else "" if instead_of is None else instead_of.to_text()
        args = [expected, *record, len(unscheduled), *unscheduled]
        for entry in scheduled:
            args += scheduled_args(entry)
        keys = [self._key(handler, "pause"), *self._calendar(handler)]
        is_done, before, after = self._run("pause", keys, args)
        return Paused(_pause(handler, after), _pause(handler, before), is_done=bool(is_done))

    def pauses(self, handlers: Sequence[str] | None = None) -> dict[str, Pause]:
        """Handler → its pause in force: of these handlers, or of all registered ones, sorted."""
        names = self.handlers() if handlers is None else sorted(handlers)
        answers = self._calls.timed([("GET", self._key(name, "pause")) for name in names]) if names else []
        found = {}
        for name, (_, answer) in zip(names, answers, strict=True):
            if isinstance(answer, Exception):
                if "WRONGTYPE" not in str(answer):
                    raise self._calls.failed(answer)
                answer = str(answer).encode()  # a pause that cannot be read
            if pause := _pause(name, answer):
                found[name] = pause
        return found


def _pause(handler: str, text: bytes | None) -> Pause | None:
    return Pause.from_text(handler, text.decode(errors="replace")) if text else None
