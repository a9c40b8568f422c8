"""What a handler has done for good, as Redis remembers it: for how long, and in how little memory."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid1, uuid4, uuid5

import pytest
import redis

from choreo import Terms
from choreo.redis_client.scripts import source_of
from choreo.store import Claim, Settlement, Verdict
from choreo.store.redis import RedisStore

HANDLER = "payment.charge"
HOUR = 3_600_000
RETENTION = 3 * HOUR
#: 2040-01-01T00:00, far enough away for Redis to forget nothing meanwhile, at which a slot of an hour begins.
NEW_YEAR = 2_208_988_800_000

ADD = "inbox_add(KEYS[1], inbox_place(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))"
HAS = "return inbox_has(KEYS[1], inbox_place(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])) and 1 or 0"
FILL = """
for i = 1, tonumber(ARGV[1]) do
  local unit = redis.sha1hex(ARGV[2] .. i)
  unit = string.gsub(string.sub(unit, 1, 32), '^(%w%w%w%w%w%w%w%w)(%w%w%w%w)(%w%w%w%w)(%w%w%w%w)', '%1-%2-%3-%4-')
  inbox_add(KEYS[1], inbox_place(unit), 3600000, 2208988800000)
end
"""


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client: Any = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def run(client: Any, namespace: str) -> Iterator[Any]:
    """Calls Lua with the inbox's functions in front."""
    prefix = f"{namespace}:"

    def run(lua: str, *args: Any) -> Any:
        return client.eval(source_of("redis_client/inbox") + lua, 1, prefix, *args)

    yield run
    with client.pipeline(transaction=False) as pipeline:
        for key in client.scan_iter(f"{prefix}*", count=10_000):
            pipeline.unlink(key)
        pipeline.execute()


def test_a_unit_is_remembered_for_the_retention_and_a_slot_more_at_most(run, client, namespace):
    # Redis forgets the bucket by its own clock; here it is asked in which slots it would still look.
    for minutes in (0, 30, 59):
        unit, done_at = str(uuid4()), NEW_YEAR + minutes * HOUR // 60
        run(ADD, unit, RETENTION, done_at)

        assert run(HAS, unit, RETENTION, done_at)
        assert run(HAS, unit, RETENTION, done_at + RETENTION - 1)
        assert not run(HAS, unit, RETENTION, done_at + RETENTION + HOUR)


def test_a_bucket_ends_when_its_youngest_unit_was_kept_for_the_retention(run, client, namespace):
    now = int(client.time()[0]) * 1000
    run(ADD, str(uuid4()), RETENTION, now)

    (bucket,) = client.keys(f"{namespace}:*")

    end_of_slot = (now // HOUR + 1) * HOUR
    assert client.pexpiretime(bucket) == end_of_slot + RETENTION


@pytest.mark.parametrize(
    "name",
    [
        lambda _: str(uuid4()),
        lambda i: str(uuid5(NAMESPACE_OID, str(i))),
        lambda _: str(uuid1()),
        lambda i: f"0198c0de-{i // 65536:04x}-7{i % 4096:03x}-8a3f-{uuid4().hex[:12]}",
        lambda i: f"order/{i}",
        lambda i: "é" * (i + 1),
        lambda _: str(uuid4()).upper(),
        lambda i: f"{i:032x}",
    ],
    ids=["uuid4", "uuid5", "uuid1", "uuid7", "text", "long", "upper case", "hex"],
)
def test_whatever_an_id_looks_like_it_is_told_from_others_and_spread(run, client, namespace, name):
    units = [name(i) for i in range(200)]
    for unit in units:
        assert not run(HAS, unit, RETENTION, NEW_YEAR)
        run(ADD, unit, RETENTION * 1_000_000, NEW_YEAR)
        assert run(HAS, unit, RETENTION * 1_000_000, NEW_YEAR)

    assert max(client.hlen(key) for key in client.scan_iter(f"{namespace}:*")) < 20


def test_many_units_take_few_bytes_each(run, client, namespace):
    before, count = client.info("memory")["used_memory"], 200_000

    for part in range(10):
        run(FILL, count // 10, part)

    buckets = list(client.scan_iter(f"{namespace}:*", count=10_000))
    with client.pipeline(transaction=False) as pipeline:
        for bucket in buckets:
            pipeline.hlen(bucket)
        assert sum(pipeline.execute()) == count
    assert client.object("encoding", buckets[0]) == b"listpack"
    assert (client.info("memory")["used_memory"] - before) / count < 60


def test_what_is_done_leaves_no_key_of_its_own(redis_url, namespace, client):
    store = RedisStore(redis_url, Terms(retention=timedelta(hours=1)), namespace)
    claim = Claim(HANDLER, str(uuid4()), "A")

    store.begin(claim)
    assert client.exists(f"{namespace}:{{{HANDLER}}}:unit:{claim.unit}")
    store.commit(claim, Settlement())

    assert not client.exists(f"{namespace}:{{{HANDLER}}}:unit:{claim.unit}")
    assert store.begin(claim).verdict is Verdict.DONE
    for key in client.keys(f"{namespace}:*"):
        client.delete(key)
