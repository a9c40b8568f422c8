"""The private names of kombu, redis-py and Celery that the Redis transport leans on."""

import pytest
from kombu.transport import redis

from choreo.broker.redis.keys import BINDINGS, SEP
from choreo.broker.redis.kombu_privates import broken


def test_the_installed_releases_still_have_what_the_redis_transport_leans_on():
    assert list(broken()) == [], "kombu, redis-py or Celery changed under the Redis transport"


def test_the_fused_store_reads_the_bindings_that_kombu_writes():
    assert (redis.Channel.keyprefix_queue, redis.Channel.sep) == (BINDINGS, SEP)


def test_a_release_that_removes_or_changes_a_name_is_found_by_that_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(redis.Channel, "_put_fanout")
    monkeypatch.setattr(redis.Channel, "_brpop_start", changed)

    found = "\n".join(broken())

    assert "_brpop_start() takes ('timeout', 'more') now, not ('timeout',)" in found
    assert "_put_fanout() is gone" in found


def changed(self: object, timeout: float, more: int) -> None:
    """A method that takes one argument more than it did."""
