"""Publishing on Redis: which queues a message reaches, and what each of them gets."""

import json

import pytest
from kombu import Exchange, Queue
from redis.exceptions import ResponseError

from tests.contract.redis_broker import EVENTS, Corner
from tests.topics import TOPICS


@pytest.mark.parametrize(("binding", "matching", "others"), TOPICS, ids=[row[0] for row in TOPICS])
def test_a_binding_matches_as_in_amqp(corner: Corner, binding: str, matching: list[str], others: list[str]):
    Queue("q", EVENTS, routing_key=binding, channel=corner.connect().channel()).declare()

    assert {key: corner.publish(key) for key in matching} == dict.fromkeys(matching, 1)
    assert {key: corner.publish(key) for key in others} == dict.fromkeys(others, 0)


def test_each_queue_gets_a_copy_of_its_own_addressed_to_itself(corner: Corner):
    channel = corner.connect().channel()
    for name, key in (("a", "order.placed"), ("b", "order.*"), ("c", "menu.*")):
        Queue(name, EVENTS, routing_key=key, channel=channel).declare()

    assert corner.publish("order.placed", {"n": 1}, headers={"task": "t"}) == 2

    [a], [b] = corner.waiting("a"), corner.waiting("b")
    assert a["properties"]["delivery_tag"] != b["properties"]["delivery_tag"]
    assert a["properties"]["delivery_info"] == {"exchange": "", "routing_key": "a"}
    assert b["properties"]["delivery_info"] == {"exchange": "", "routing_key": "b"}
    assert a["body"] == b["body"] == '{"n": 1}'
    assert a["headers"] == {"task": "t"}
    assert corner.waiting("c") == []


def test_a_queue_bound_by_two_matching_patterns_gets_one_copy(corner: Corner):
    channel = corner.connect().channel()
    for key in ("order.placed", "order.#"):
        Queue("q", EVENTS, routing_key=key, channel=channel).declare()

    assert corner.publish("order.placed") == 1
    assert len(corner.waiting("q")) == 1


def test_a_publisher_that_never_declared_the_exchange_broadcasts_all_the_same(corner: Corner):
    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()
    fresh = corner.connect().Producer()

    assert fresh.publish(1, exchange="events", routing_key="order.placed") == 1


def test_a_publisher_from_before_the_first_binding_finds_it(corner: Corner):
    fresh = corner.connect().Producer()
    assert fresh.publish(0, exchange="events", routing_key="order.placed") == 0

    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()

    assert fresh.publish(1, exchange="events", routing_key="order.placed") == 1
    assert corner.bodies("q") == [1]


def test_a_fanout_exchange_is_known_to_a_publisher_that_never_declared_it(corner: Corner):
    exchange = Exchange("all", type="fanout")
    reader = corner.reader(Queue("mine", exchange))
    assert reader.nothing()  # the subscription is on its way

    corner.connect().Producer().publish({"hello": 1}, exchange="all", routing_key="")

    reader.drain(1)
    assert reader.bodies == [{"hello": 1}]


def test_who_publishes_to_a_fanout_knows_how_many_listened(corner: Corner):
    exchange = Exchange("all", type="fanout")
    producer = corner.connect().Producer()
    producer.publish(1, exchange=exchange, routing_key="", declare=[exchange])
    assert producer.channel.listeners == 0

    readers = [corner.reader(Queue(name, exchange)) for name in ("mine", "yours")]
    assert all(reader.nothing() for reader in readers)  # the subscriptions are on their way
    producer.publish(2, exchange=exchange, routing_key="")

    assert producer.channel.listeners == 2


def test_nobody_listening_is_no_error_and_is_counted(corner: Corner):
    producer = corner.connect().Producer()

    assert producer.publish(1, exchange=EVENTS, routing_key="order.placed", declare=[EVENTS]) == 0


def test_unbinding_really_unbinds(corner: Corner):
    queue = Queue("q", EVENTS, routing_key="order.*")
    bound = queue(corner.connect().channel())
    bound.declare()
    assert corner.publish("order.placed") == 1

    bound.unbind_from(EVENTS, routing_key="order.*")

    assert corner.publish("order.placed") == 0


def test_whoever_unbinds_need_not_have_declared_anything(corner: Corner):
    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()

    corner.connect().channel().queue_unbind("q", exchange="events", routing_key="order.*")

    assert corner.publish("order.placed") == 0


def test_deleting_a_queue_removes_its_bindings_also_those_that_others_made(corner: Corner):
    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()
    corner.publish("order.placed")

    corner.connect().channel().queue_delete("q")

    assert corner.waiting("q") == []
    assert corner.publish("order.placed") == 0


def test_deleting_an_exchange_removes_its_bindings(corner: Corner):
    channel = corner.connect().channel()
    Queue("q", EVENTS, routing_key="order.*", channel=channel).declare()
    corner.publish("order.placed")

    channel.exchange_delete("events")

    assert corner.publish("order.placed") == 0
    assert len(corner.waiting("q")) == 1


def test_a_new_binding_is_seen_at_once_by_publishers_that_looked_before(corner: Corner):
    channel = corner.connect().channel()
    Queue("a", EVENTS, routing_key="order.*", channel=channel).declare()
    assert corner.publish("order.placed") == 1

    Queue("b", EVENTS, routing_key="#", channel=channel).declare()

    assert corner.publish("order.placed") == 2


def test_a_binding_made_by_stock_kombu_counts(corner: Corner):
    Queue("ours", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()
    assert corner.publish("order.placed") == 1

    stock = corner.connect(transport="redis").channel()
    Queue("theirs", EVENTS, routing_key="order.*", channel=stock).declare()

    assert corner.publish("order.placed") == 2
    assert {row[2] for row in stock.get_table("events")} == {"ours", "theirs"}


def test_an_unbinding_is_seen_although_stock_kombu_binds_another_queue_meanwhile(corner: Corner):
    channel = corner.connect().channel()
    Queue("ours", EVENTS, routing_key="order.*", channel=channel).declare()
    assert corner.publish("order.placed") == 1

    channel.queue_unbind("ours", exchange="events", routing_key="order.*")
    stock = corner.connect(transport="redis").channel()
    Queue("theirs", EVENTS, routing_key="order.*", channel=stock).declare()
    corner.publish("order.placed")

    assert [len(corner.waiting(name)) for name in ("ours", "theirs")] == [1, 1]


def test_what_publishers_remember_of_the_bindings_is_looked_up_again_every_minute(corner: Corner):
    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()

    corner.publish("order.placed")
    corner.publish("order.paid")
    assert 55 < corner.redis.ttl(f"{corner.prefix}_choreo.routes.events") <= 60

    # As an older version leaves it.
    corner.redis.persist(f"{corner.prefix}_choreo.routes.events")
    corner.publish("order.cancelled")
    assert 55 < corner.redis.ttl(f"{corner.prefix}_choreo.routes.events") <= 60


def test_a_direct_exchange_compares_keys_letter_by_letter(corner: Corner):
    direct = Exchange("direct", type="direct")
    channel = corner.connect().channel()
    Queue("a", direct, routing_key="a.*", channel=channel).declare()
    Queue("b", direct, routing_key="a.b", channel=channel).declare()
    producer = corner.connect().Producer()

    assert producer.publish(1, exchange="direct", routing_key="a.b") == 1
    assert producer.publish(2, exchange="direct", routing_key="a.*") == 1
    assert corner.bodies("a") == [2]
    assert corner.bodies("b") == [1]


def test_all_queues_get_the_message_or_none_does(corner: Corner):
    channel = corner.connect().channel()
    for name in ("a", "b", "c"):
        Queue(name, EVENTS, routing_key="order.placed", channel=channel).declare()
    corner.redis.set(corner.prefix + "b", "no list")

    with pytest.raises(ResponseError, match="queue b is a string, not a list; nothing was sent"):
        corner.publish("order.placed")

    assert corner.waiting("a") == corner.waiting("c") == []


def test_the_cost_of_a_publish_does_not_grow_with_the_queues_bound_to_something_else(corner: Corner):
    channel = corner.connect().channel()
    Queue("q", EVENTS, routing_key="order.placed", channel=channel).declare()
    for n in range(500):
        channel.queue_bind(f"other{n}", exchange="events", routing_key=f"other{n}.*" if n % 2 else f"other{n}.x")
    corner.publish("order.placed")

    before = corner.redis.info("commandstats")["cmdstat_smembers"]["calls"]
    for _ in range(20):
        assert corner.publish("order.placed") == 1

    assert corner.redis.info("commandstats")["cmdstat_smembers"]["calls"] == before


def test_routing_keys_without_end_do_not_fill_the_memory(corner: Corner):
    Queue("q", EVENTS, routing_key="order.#", channel=corner.connect().channel()).declare()

    for n in range(1100):
        corner.publish(f"order.{n}")

    assert corner.redis.hlen(f"{corner.prefix}_choreo.routes.events") <= 1002


def test_a_message_with_priority_goes_to_the_list_of_its_priority_in_each_queue(corner: Corner):
    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()

    corner.publish("order.placed", 9, priority=9)
    corner.publish("order.placed", 0, priority=0)

    assert corner.bodies("q") == [0]
    assert corner.bodies("q\x06\x169") == [9]


def test_a_batch_of_publishes_broadcasts_as_well(corner: Corner):
    channel = corner.connect().channel()
    for name in ("a", "b"):
        Queue(name, EVENTS, routing_key="order.*", channel=channel).declare()
    producer = corner.connect().Producer()

    with producer.batch():
        for n in range(10):
            producer.publish(n, exchange=EVENTS, routing_key="order.placed", declare=[EVENTS])
        producer.publish(99, exchange="", routing_key="c")

    assert corner.bodies("a") == corner.bodies("b") == list(range(10))
    assert corner.bodies("c") == [99]


def test_two_prefixes_on_one_server_do_not_meet(corner: Corner):
    other = Corner(corner.url, corner.prefix + "other:")
    try:
        Queue("q", EVENTS, routing_key="#", channel=corner.connect().channel()).declare()

        assert other.publish("order.placed") == 0
        assert corner.publish("order.placed") == 1
    finally:
        other.close()


def test_queues_are_plain_lists_under_their_own_names(corner: Corner):
    channel = corner.connect().channel()
    Queue("payment.charge_customer", EVENTS, routing_key="order.placed", channel=channel).declare()

    for n in range(3):
        corner.publish("order.placed", n)

    assert corner.redis.llen(f"{corner.prefix}payment.charge_customer") == 3
    assert channel.queue_declare("payment.charge_customer", passive=True).message_count == 3


def test_stock_kombu_reads_what_we_publish(corner: Corner):
    Queue("q", EVENTS, routing_key="order.*", channel=corner.connect().channel()).declare()
    corner.publish("order.placed", {"ü": "😀"}, headers={"h": 1})
    corner.publish("order.placed", b"\xff\x00", serializer="pickle")

    stock = corner.reader("q", transport="redis")
    stock.drain(2)

    assert stock.bodies == [{"ü": "😀"}, b"\xff\x00"]
    assert stock.messages[0].headers["h"] == 1
    json.dumps(stock.messages[0].properties)
