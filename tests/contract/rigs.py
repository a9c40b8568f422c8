"""Stores whose time a test can let pass, and short words for what is done with them."""

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

import redis

from choreo import Terms
from choreo.broker.redis.keys import Keys
from choreo.events.message import Message
from choreo.fast.fused_store import FusedStore
from choreo.store import Arrival, Claim, ClaimResult, Outcome, Scheduled, Settlement, Store
from choreo.store.letters import Replay
from choreo.store.memory import MemoryStore
from choreo.store.memory_content import Content
from choreo.store.redis import RedisStore

HANDLER = "driver.assign"
#: A consumer that has deliveries in flight.
OWNER = "w"
# Time moves in steps of 10 seconds here and everything lasts an odd 5: a slow machine changes no answer.
LEASE, HOLD, WITHIN = 35.0, 25.0, 95.0
TERMS = Terms(lease=timedelta(seconds=LEASE), retention=timedelta(days=1), max_deliveries=3)
DONE = Settlement()
AGAIN = Settlement(done=False)


class Rig(Protocol):
    """A store, and a way to let time pass without waiting."""

    store: Store

    def pass_time(self, seconds: float) -> None: ...

    def other(self, terms: Terms) -> Store:
        """The same store, as a program with these terms uses it."""


class MemoryRig:
    def __init__(self) -> None:
        self._now = 1000.0
        self._content = Content()
        self.store = self.other(TERMS)

    def other(self, terms: Terms) -> MemoryStore:
        return MemoryStore(terms, lambda: self._now, self._content)

    def pass_time(self, seconds: float) -> None:
        self._now += seconds


class RedisRig:
    """Redis has no clock that a test could move; so everything that is kept there is moved back instead."""

    def __init__(self, url: str, prefix: str, *, fused: bool = False) -> None:
        #: The keys of the broker that a fused store is fused with.
        self.broker = Keys(f"{prefix}:broker:")
        self.store = (
            FusedStore(url, TERMS, prefix, "choreo.events", self.broker.prefix)
            if fused
            else RedisStore(url, TERMS, prefix)
        )
        self.prefix = prefix
        self._url = url
        self.client: Any = self.connect(url)

    def other(self, terms: Terms) -> RedisStore:
        return RedisStore(self._url, terms, self.prefix)

    def connect(self, url: str) -> Any:
        """A client that sees all keys."""
        return redis.Redis.from_url(url, decode_responses=True)

    def find(self, kind: str = "") -> list[str]:
        pattern = f"{self.prefix}:{{*}}:{kind}*" if kind else f"{self.prefix}:*"
        return sorted(self.client.scan_iter(pattern, count=1000))

    def pass_time(self, seconds: float) -> None:
        moved = round(seconds * 1000)
        for key in self.find("unit"):
            if until := self.client.hget(key, "until"):
                self.client.hset(key, "until", int(until) - moved)
        for key in self.find("due"):
            for member, score in self.client.zrange(key, 0, -1, withscores=True):
                self.client.zincrby(key, -moved if score > 0 else moved, member)
        for key in self.find("slots"):
            for member in self.client.zrange(key, 0, -1):
                self.client.zincrby(key, -moved, member)
        for key in self.find("programs"):
            for name, record in self.client.hgetall(key).items():
                until, seen, rest = record.split("\n", 2)
                self.client.hset(key, name, f"{int(until) - moved}\n{int(seen) - moved}\n{rest}")
        for key in self.find("parts"):
            for name, text in self.client.hgetall(key).items():
                if name[0] not in "#?":
                    arrived, _, part = text.partition(" ")
                    self.client.hset(key, name, f"{int(arrived) - moved} {part}")
        for key in self.find():
            if (left := self.client.pttl(key)) > 0:
                self.client.pexpire(key, max(left - moved, 1))
                if left <= moved:
                    self.client.delete(key)

    def close(self) -> None:
        for key in self.find():
            self.client.delete(key)
        self.client.close()


@cache
def client_of_cluster(url: str) -> Any:
    """One client for all tests, since it asks a cluster for all commands that there are."""
    return redis.RedisCluster.from_url(url, decode_responses=True)


class ClusterRig(RedisRig):
    """A cluster, of which the URL names one node."""

    def connect(self, url: str) -> Any:
        return client_of_cluster(url)

    def close(self) -> None:
        for key in self.find():
            self.client.delete(key)


def claim(token: str = "A", unit: str = "e-1", attempt: int = 1, handler: str = HANDLER) -> Claim:
    return Claim(handler, unit, token, attempt)


def message(text: str = "x") -> Message:
    return Message("", HANDLER, text.encode(), {"task": "choreo.event"})


def at(key: str, delay: float = 0.0) -> Scheduled:
    return Scheduled(key, message(key), delay)


#: The schedule id of the deadline of join:ORD-1.
DEADLINE = "deadline:join:ORD-1"


def part_of(part: str, text: str = "", within: float = WITHIN) -> Arrival:
    """A part of a join that needs one a and one b."""
    return Arrival(part, part, text or f"<{part}>", {"a": None, "b": None}, 2, within)


def settle(store: Store, settled: Claim, settlement: Settlement) -> Outcome:
    return store.commit(settled, settlement).outcome


def arrive(store: Store, part: str, token: str = "A", attempt: int = 1, unit: str = "join:ORD-1") -> ClaimResult:
    return store.arrive(claim(token, unit, attempt), part_of(part))


def due(store: Store, limit: int = 100) -> list[str]:
    return [key for key, _ in store.due(HANDLER, limit, HOLD)]


def buried(store: Store, letter_id: str = "l-1", unit: str = "e-1", text: str = '{"é": 1}') -> None:
    store.begin(claim(unit=unit))
    assert settle(store, claim(unit=unit), Settlement(letter=(letter_id, text))) is Outcome.OK


def replay(
    store: Store, handler: str, letter_id: str, unit: str | None, parts: Mapping[str, str], scheduled: Scheduled
) -> bool:
    """Replay one letter."""
    (answer,) = store.replay_all(handler, [Replay(letter_id, scheduled, unit, parts)])
    return answer


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call from that many threads at the same moment."""
    barrier, answers = threading.Barrier(count), []

    def run(number: int) -> None:
        barrier.wait()
        answers.append(call(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
