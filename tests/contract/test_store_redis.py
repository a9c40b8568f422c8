"""What only the store in Redis has to keep: lifetimes, names of keys, and what its server can do to it."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from choreo.errors import ChoreoError, StoreError
from choreo.local.server import EmbeddedServer
from choreo.redis_client.wire import Wire
from choreo.store import Outcome, Settlement, Store, Verdict
from choreo.store.redis import RedisStore
from tests.contract.rigs import (
    DONE,
    HANDLER,
    HOLD,
    RedisRig,
    arrive,
    at,
    buried,
    claim,
    due,
    replay,
    settle,
)
from tests.waiting import DEADLINE


def test_a_commit_whose_answer_was_lost_is_made_again_and_says_so(redis_rig, monkeypatch: pytest.MonkeyPatch):
    store, call = redis_rig.store, Wire.call
    for unit in ("first", "second"):
        store.begin(claim(unit=unit))
    assert not store.commit(claim(unit="first"), DONE).repeated
    lost: list[Any] = []

    def lose_the_first(wire: Wire, *about: Any) -> Any:
        answer = call(wire, *about)
        if not lost:
            lost.append(answer)
            raise redis.ConnectionError("cut")
        return answer

    monkeypatch.setattr(Wire, "call", lose_the_first)
    committed = store.commit(claim(unit="second"), DONE)

    assert lost
    assert (committed.outcome, committed.repeated) == (Outcome.ALREADY, True)


def test_a_dead_letter_without_a_unit_whose_claim_the_server_lost_is_an_error(redis_rig, monkeypatch):
    store, begin = redis_rig.store, RedisStore.begin

    def begin_and_forget(self: RedisStore, claimed: Any) -> Any:
        result = begin(self, claimed)
        redis_rig.client.delete(*redis_rig.find())
        return result

    monkeypatch.setattr(RedisStore, "begin", begin_and_forget)
    with pytest.raises(StoreError, match=r"l-1 of driver\.assign was not recorded"):
        store.add_letter(HANDLER, "l-1", "{}")

    assert store.letters(HANDLER) == []


def test_state_has_a_lifetime_and_what_waits_for_somebody_has_none(redis_rig):
    store, day = redis_rig.store, 86_400_000
    store.begin(claim(unit="running"))
    store.begin(claim(unit="failed"))
    settle(store, claim(unit="failed"), Settlement(done=False, scheduled=[at("retry", 15)]))
    store.begin(claim(unit="renewed"))
    store.renew(claim(unit="renewed"))
    buried(store, unit="buried")
    store.begin(claim(unit="done"))
    settle(store, claim(unit="done"), DONE)
    store.add_letter(HANDLER, "l-2", "{}", [at("notice")])
    arrive(store, "a", unit="join:waiting")
    arrive(store, "a", unit="join:done")
    arrive(store, "b", unit="join:done")
    settle(store, claim(unit="join:done"), DONE)
    arrive(store, "a", unit="join:done")
    buried(store, "l-3", unit="join:replayed")
    replay(store, HANDLER, "l-3", "join:replayed", {"a": "<a>"}, at("replay"))
    store.register([HANDLER])

    lifetimes = {key.partition("}:")[2] or key: redis_rig.client.pttl(key) for key in redis_rig.find()}

    done = {key: left for key, left in lifetimes.items() if key.startswith("done:")}
    mortal = {key: left for key, left in lifetimes.items() if key.startswith("unit:")}
    immortal = {key: left for key, left in lifetimes.items() if key not in mortal | done}
    assert {"unit:running", "unit:failed", "unit:renewed", "unit:join:done", "unit:buried"} <= set(mortal)
    assert "unit:done" not in mortal
    assert len(done) == 1
    assert all(day - 60_000 < left <= day * 4 / 3 for left in done.values()), done
    assert all(day - 60_000 < left <= day for left in mortal.values()), mortal
    # Parts wait for somebody, too: a service may be down for longer than its joins wait.
    assert {"parts:join:waiting", "parts:join:replayed"} == {key for key in immortal if key.startswith("parts:")}
    others = {key for key in immortal if not key.startswith("parts:")}
    assert others == {"due", "messages", "letters", "letters:index", "tally", f"{redis_rig.prefix}:handlers"}
    assert set(immortal.values()) == {-1}


def test_the_keys_of_one_handler_share_a_hash_tag(redis_rig):
    buried(redis_rig.store)
    arrive(redis_rig.store, "a")

    assert redis_rig.find()
    assert all(key.startswith(f"{redis_rig.prefix}:{{{HANDLER}}}:") for key in redis_rig.find())


def test_prefixes_keep_platforms_apart(redis_rig, redis_url):
    other = RedisRig(redis_url, f"{redis_rig.prefix}-other")
    try:
        buried(redis_rig.store)
        redis_rig.store.register([HANDLER])
        redis_rig.store.schedule(HANDLER, at("m"))

        assert other.store.begin(claim("B")).verdict is Verdict.RUN
        assert other.store.letters(HANDLER) == other.store.handlers() == due(other.store) == []
    finally:
        other.close()


EVERY_CALL: dict[str, Callable[[Store], Any]] = {
    "begin": lambda store: store.begin(claim()),
    "arrive": lambda store: arrive(store, "a"),
    "renew": lambda store: store.renew(claim()),
    "commit": lambda store: settle(store, claim(), DONE),
    "schedule": lambda store: store.schedule(HANDLER, at("m")),
    "ripe": lambda store: store.ripe([HANDLER]),
    "due": lambda store: store.due(HANDLER, 10, HOLD),
    "sent": lambda store: store.sent(HANDLER, ["m"]),
    "unschedule": lambda store: store.unschedule(HANDLER, "m"),
    "tend": lambda store: store.tend(HANDLER, 10),
    "tended": lambda store: store.tended(HANDLER),
    "now": lambda store: store.now(),
    "pending": lambda store: store.pending(HANDLER, 10),
    "look": lambda store: store.look(HANDLER, "join:ORD-1"),
    "tally": lambda store: store.tally(HANDLER),
    "describe_joins": lambda store: store.describe_joins({HANDLER: "{}"}),
    "joins": lambda store: store.joins(),
    "scheduled": lambda store: store.backlog(HANDLER).total,
    "add_letter": lambda store: store.add_letter(HANDLER, "l-1", "{}"),
    "letters": lambda store: store.letters(HANDLER),
    "letter": lambda store: store.letter(HANDLER, "l-1"),
    "discard": lambda store: store.discard(HANDLER, "l-1"),
    "replay": lambda store: replay(store, HANDLER, "l-1", None, {}, at("m")),
    "register": lambda store: store.register([HANDLER]),
    "handlers": lambda store: store.handlers(),
    "ping": lambda store: store.ping(),
}


@pytest.mark.parametrize("call", EVERY_CALL.values(), ids=EVERY_CALL)
def test_a_store_that_does_not_answer_is_a_store_error_without_its_password(call):
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/3") as caught:
        call(RedisStore("redis://user:s3cret@127.0.0.1:1/3"))

    assert "s3cret" not in str(caught.value)


def test_a_password_in_the_query_is_not_told_either():
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1") as caught:
        RedisStore("redis://127.0.0.1:1/3?password=s3cret").ping()

    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_a_store_error(redis_server: EmbeddedServer):
    with pytest.raises(StoreError, match=f"127.0.0.1:{redis_server.port}") as caught:
        RedisStore(f"redis://:wr0ng@127.0.0.1:{redis_server.port}/0").ping()

    assert "wr0ng" not in str(caught.value)


def test_a_key_of_somebody_else_is_a_store_error_and_changes_nothing(redis_rig):
    redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:unit:e-1", "not a hash")

    with pytest.raises(StoreError, match="WRONGTYPE"):
        redis_rig.store.begin(claim())


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_key_of_somebody_else_in_the_place_of_a_schedule_hides_no_other(redis_rig, redis_url: str, protocol: int):
    redis_rig.client.set(f"{redis_rig.prefix}:{{payment.other}}:due", "not a schedule")
    store = RedisStore(f"{redis_url}?protocol={protocol}", redis_rig.store.terms, redis_rig.prefix)
    store.schedule(HANDLER, at("m"))

    # Whoever takes what is due is told what is wrong there.
    assert store.ripe(["payment.idle", "payment.other", HANDLER]) == ["payment.other", HANDLER]
    with pytest.raises(StoreError, match="WRONGTYPE"):
        store.due("payment.other", 10, HOLD)


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://127.0.0.1", ""])
def test_an_address_that_is_none_is_told_as_such(url):
    with pytest.raises(ChoreoError, match="scheme"):
        RedisStore(url).ping()


def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held(redis_rig):
    # redis-py's pool would, for ever: its lock is inherited as it was, and nobody opens it in the child.
    store = redis_rig.store
    store.ping()

    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store._calls._client.connection_pool._lock:
            held.set()
            over.wait(DEADLINE)

    threading.Thread(target=hold).start()
    held.wait(DEADLINE)
    child = os.fork()
    if child == 0:
        signal.alarm(int(DEADLINE))
        os._exit(0 if store.begin(claim()).verdict is Verdict.RUN else 1)
    over.set()
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_that_was_forked_behind_pythons_back_has_a_connection_of_its_own(redis_rig):
    # As uWSGI forks: no hook of Python runs in the child.
    def connection() -> int:
        return redis_rig.store._calls._on_a_wire(lambda wire: wire.command("CLIENT", "ID"))

    parents = connection()

    child = ctypes.PyDLL(None).fork()
    if child == 0:
        signal.alarm(int(DEADLINE))
        os._exit(0 if connection() != parents else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert connection() == parents


def test_it_tells_of_the_memory_of_its_server(redis_rig):
    ((url, info),) = redis_rig.store.servers().items()

    assert url == redis_rig.store.url
    assert info["used_memory"] > 100_000
    assert (info["evicted_keys"], info["maxmemory_policy"]) == (0, "noeviction")
