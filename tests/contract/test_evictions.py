"""A server that begins to evict keys is noticed while the worker runs, and what it has evicted is counted."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from choreo.local.server import EmbeddedServer
from choreo.redis_client import evictions
from choreo.redis_client.evictions import EvictionWatch, watch
from choreo.store.redis import RedisStore
from tests.contract.redis_broker import Corner
from tests.waiting import eventually


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    monkeypatch.setattr(evictions, "INTERVAL", 0)
    monkeypatch.setattr(evictions, "_watches", {})
    caplog.set_level(logging.WARNING, "choreo.broker")
    with redis.Redis.from_url(server.url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 0)


def evict(client: Any) -> int:
    """Let the server evict some keys. Returns how many it has evicted since it was started."""
    client.config_set("maxmemory-policy", "allkeys-lru")
    for number in range(20):
        client.set(f"key:{number}", "x" * 10_000)
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 50_000)
    client.set("one more", "x" * 10_000)
    return int(client.info("stats")["evicted_keys"])


def test_a_policy_that_is_switched_on_and_what_it_evicts_is_logged(client: Any, caplog: pytest.LogCaptureFixture):
    before = int(client.info("stats")["evicted_keys"])
    seen = EvictionWatch.of("here")
    seen.look(client.info)
    assert caplog.text == ""

    evicted = evict(client) - before
    for _ in range(2):
        seen.look(client.info)

    assert evicted > 0
    assert seen.count == evicted
    warning, error = caplog.records
    assert (warning.levelname, error.levelname) == ("WARNING", "ERROR")
    assert "maxmemory-policy is 'allkeys-lru'" in warning.getMessage()
    assert f"has evicted {evicted} key(s)" in error.getMessage()
    for record in caplog.records:
        assert "Set `maxmemory-policy noeviction`" in record.getMessage()


def test_a_count_that_begins_anew_is_no_eviction(client: Any, caplog: pytest.LogCaptureFixture):
    seen = EvictionWatch.of("here")
    seen.look(lambda: "maxmemory_policy:noeviction\r\nevicted_keys:7\r\n")
    seen.look(lambda: b"maxmemory_policy:noeviction\r\nevicted_keys:0\r\n")
    seen.look(lambda: {"maxmemory_policy": "noeviction", "evicted_keys": 2})

    assert seen.count == 2


@pytest.mark.parametrize(
    "answer", [{"maxmemory_policy": "noeviction"}, {"maxmemory_policy": "noeviction", "evicted_keys": "many"}, None]
)
def test_an_answer_in_another_form_is_no_trouble(answer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evictions, "_watches", {})

    watch("redis://here", lambda: answer)

    assert EvictionWatch.of("here").count == 0


def test_a_running_consumer_looks_again(client: Any, server: EmbeddedServer, caplog: pytest.LogCaptureFixture):
    corner = Corner(server.url, "t:")
    reader = corner.reader("q")
    reader.nothing(0.1)
    eventually(lambda: evictions._watches)

    evict(client)

    eventually(lambda: "has evicted" in caplog.text)
    assert "allkeys-lru" in caplog.text
    reader.close()
    client.flushall()


def test_a_store_with_a_server_of_its_own_is_watched_too(
    client: Any, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
):
    store = RedisStore(server.url)
    store.watch()

    evict(client)
    store.watch()

    assert "has evicted" in caplog.text


@pytest.mark.parametrize("error", [redis.ConnectionError("away"), redis.ResponseError("NOPERM"), OSError()])
def test_a_server_that_tells_nothing_is_no_problem(client: Any, error: Exception) -> None:
    def refuse() -> None:
        raise error

    watch("redis://:secret@here:1/0", refuse)
    watch("redis://:secret@here:1/0", lambda: redis.ResponseError("NOPERM"))

    assert list(evictions._watches) == ["here:1"]


def test_a_server_is_looked_at_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evictions, "_watches", {})
    looks: list[int] = []

    for _ in range(5):
        watch("redis://here:1", lambda: looks.append(1))

    assert looks == [1]
