"""The turns in Redis: see `choreo.store.turns`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from choreo.events.message import Message
from choreo.redis_client.scripts import Script
from choreo.store.calls import Calls
from choreo.store.turns import (
    ASK_AGAIN,
    ASKED,
    AWAITED,
    CALL_GRACE,
    CALLED,
    RUNNING,
    Turn,
    TurnResult,
    TurnVerdict,
    copy_id,
)


class RedisTurns:
    """
    The turns of a `choreo.store.redis.RedisStore`.

    ``key`` makes the name of a key; its first argument is the handler. ``lease`` and ``retention`` are in milliseconds.
    """

    def __init__(self, calls: Calls, key: Callable[..., str], lease: int, retention: int) -> None:
        self._calls, self._key, self._retention = calls, key, retention
        self._running = 2 * lease + _ms(RUNNING)

    def enter(self, turn: Turn) -> None:
        """See `Turns.enter_series`."""
        self._run("enter_series", turn, [turn.unit, turn.time, self._retention])

    def take(self, turn: Turn, message: Message) -> TurnResult:
        """See `Turns.take_turn`."""
        copy = [copy_id(turn.token, turn.key), message.to_json(), _ms(ASK_AGAIN)]
        args = [turn.unit, turn.time, self._retention, *copy, self._running, *_CALLING]
        verdict, *called = self._run("take_turn", turn, args)
        return TurnResult(TurnVerdict(verdict.decode()), _called(called))

    def renew(self, turn: Turn) -> bool:
        """See `Turns.renew_turn`."""
        series, places, holder = self._series(turn.handler, turn.key)
        args = [turn.unit, self._running, self._retention]
        return bool(self._calls.run(Script.load("store/renew_turn"), [holder, series, places], args))

    def end(self, turn: Turn, wait: float | None) -> Mapping[str, Message]:
        """See `Turns.end_turn`."""
        kept = "" if wait is None else _ms(wait + AWAITED)
        return _called(self._run("end_turn", turn, [turn.unit, kept, self._retention, *_CALLING]))

    def series(self, handler: str, key: str) -> list[str]:
        """See `Turns.series`."""
        order, _, turn = self._series(handler, key)

        def look(client: Any) -> tuple[Any, Any]:
            return client.get(turn), client.zrange(order, 0, -1)

        holder, members = self._calls.ask(look)
        units = [member.decode().partition(":")[2] for member in members]
        first = holder.decode() if holder else ""
        return [first, *(unit for unit in units if unit != first)] if first in units else units

    def _series(self, handler: str, key: str) -> tuple[str, str, str]:
        return self._key(handler, "series", key), self._key(handler, "places", key), self._key(handler, "turn", key)

    def _run(self, script: str, turn: Turn, args: Sequence[Any]) -> Any:
        handler = turn.handler
        calendar = self._key(handler, "due"), self._key(handler, "messages")
        keys = [*self._series(handler, turn.key), *calendar, self._key(handler, "done", "")]
        return self._calls.run(Script.load(f"store/{script}"), keys, args)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_CALLING = (_ms(CALL_GRACE), _ms(CALLED), _ms(ASKED))


def _called(answer: Sequence[bytes]) -> dict[str, Message]:
    return {answer[0].decode(): Message.from_json(answer[1])} if answer else {}
