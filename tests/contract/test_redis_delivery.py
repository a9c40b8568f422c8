"""Consuming on Redis: what is taken is owned, and what is owned is handled or comes back. Nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu import Consumer, Queue
from kombu.asynchronous import Hub

from choreo.broker.redis import consuming, scripts, server_settings, taking
from choreo.broker.redis.keys import Keys
from choreo.broker.redis.ownership import Ownership
from choreo.broker.redis.packing import UNREADABLE
from choreo.broker.redis.receipt import Receipt
from choreo.broker.redis.taking import Pace
from choreo.fast.channel import ChannelLane
from choreo.local.server import EmbeddedServer
from tests.contract.redis_broker import EVENTS, TIMEOUT, TRANSPORT, Corner, Reader, proxy_to
from tests.waiting import DEADLINE, eventually


def fill(corner: Corner, queue: str, *bodies) -> None:
    for body in bodies:
        corner.put(queue, body)


# -- taking and acking -------------------------------------------------------------------------------------------------


def test_what_is_taken_is_in_flight_before_it_is_delivered_and_gone_once_acked(corner: Corner):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    seen = []
    reader.on_message = lambda _: seen.append(corner.in_flight())

    [message] = reader.drain(1)

    assert list(seen[0].values()) == [1]
    assert corner.waiting("q") == []
    message.ack()
    assert corner.in_flight() == {}


def test_acks_made_during_a_delivery_do_not_wait_for_the_next_message(corner: Corner):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    reader.on_message = lambda message: message.ack()

    reader.drain(1)

    assert corner.in_flight() == {}


def test_an_ack_from_another_thread_does_not_wait_for_the_next_message(corner: Corner):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    [message] = reader.drain(1)
    waiting = threading.Thread(target=reader.nothing, args=(1.0,))
    waiting.start()

    message.ack()

    assert corner.in_flight() == {}
    waiting.join()


def test_a_consumer_takes_as_many_as_its_prefetch_allows_and_more_once_it_acks(corner: Corner):
    fill(corner, "q", *range(10))
    reader = corner.reader("q", prefetch=3)
    reader.drain(3)

    assert reader.nothing()
    assert len(corner.waiting("q")) == 7

    for message in reader.messages:
        message.ack()
    reader.drain(6)
    assert reader.bodies == list(range(6))


def test_one_drain_events_delivers_one_message(corner: Corner):
    fill(corner, "q", *range(5))
    reader = corner.reader("q", prefetch=5)

    reader.connection.drain_events(timeout=DEADLINE)

    assert reader.bodies == [0]


def test_queues_take_turns_even_if_one_of_them_is_never_empty(corner: Corner):
    fill(corner, "busy", *range(20))
    fill(corner, "calm", 101, 102)
    reader = corner.reader("busy", "calm", prefetch=4)
    reader.on_message = lambda message: message.ack()

    reader.drain(4)

    assert {101, 102} <= set(reader.bodies[:4])


def test_urgent_messages_come_first(corner: Corner):
    fill(corner, "q", 1)
    for priority in (9, 6, 3, 0):
        corner.put("q", priority * 10, priority=priority)
    reader = corner.reader("q")

    reader.drain(5)

    assert reader.bodies == [1, 0, 30, 60, 90]


def test_a_message_without_acks_is_never_in_flight(corner: Corner):
    fill(corner, "q", 1, 2)
    reader = corner.reader("q")
    reader.consumer.cancel()
    reader.consumer.consume(no_ack=True)

    reader.drain(2)

    assert reader.bodies == [1, 2]
    assert corner.in_flight() == {}
    assert corner.owners() == []


def test_a_queue_that_is_consumed_anew_is_taken_from_as_is_said_now(corner: Corner):
    reader = corner.reader("p", "q")
    fill(corner, "q", 1)
    reader.drain(1)[0].ack()
    reader.consumer.cancel_by_queue("q")
    again = Consumer(reader.channel, [reader.queues[1]], on_message=reader.messages.append, auto_declare=False)

    again.consume(no_ack=True)
    fill(corner, "q", 2)
    reader.drain(2)

    assert reader.bodies == [1, 2]
    assert corner.in_flight() == {}


def test_basic_get_takes_one_message_which_then_is_owned(corner: Corner):
    fill(corner, "q", 1, 2)
    channel = corner.connect().channel()

    message = channel.basic_get("q")

    assert message.payload == 1
    assert list(corner.in_flight().values()) == [1]
    message.ack()
    assert corner.in_flight() == {}
    assert channel.basic_get("q", no_ack=True).payload == 2
    assert channel.basic_get("q") is None


def test_a_lost_token_costs_a_second_and_not_a_message(corner: Corner):
    reader = corner.reader("q")
    assert reader.nothing(0.2)
    # As a producer does that knows nothing of tokens: stock kombu.
    corner.connect(transport="redis").Producer().publish(7, exchange="", routing_key="q")

    reader.drain(1)

    assert reader.bodies == [7]


def test_a_token_wakes_a_waiting_consumer_at_once(corner: Corner):
    reader = corner.reader("q")
    timings = []
    for n in range(5):
        assert reader.nothing(0.05)
        threading.Timer(0.05, fill, [corner, "q", time.monotonic()]).start()
        reader.drain(n + 1)
        timings.append(time.monotonic() - reader.bodies[-1])

    # Without a wake-up each would have taken most of a second. A busy machine may be late once, but not each time.
    assert min(timings) < 0.5


def test_messages_of_stock_kombu_are_consumed_although_two_of_them_share_a_tag(corner: Corner):
    stock = corner.connect(transport="redis")
    channel = stock.channel()
    for name in ("a", "b"):
        Queue(name, EVENTS, routing_key="order.*", channel=channel).declare()
    stock.Producer().publish({"n": 1}, exchange=EVENTS, routing_key="order.placed", declare=[EVENTS])
    tags = {corner.waiting(name)[0]["properties"]["delivery_tag"] for name in "ab"}
    assert len(tags) == 1
    reader = corner.reader("a", "b", prefetch=2)

    first, second = reader.drain(2)

    assert first.delivery_tag != second.delivery_tag
    first.ack()
    assert list(corner.in_flight().values()) == [1]
    assert second.payload == {"n": 1}


def test_an_event_loop_is_told_once_of_each_socket_also_after_the_connection_broke(corner: Corner):
    corner.put("q", "first")
    reader = corner.reader("q")
    hub, told = Hub(), []
    add = hub.add_reader
    hub.add_reader = lambda fd, *about: (told.append(fd), add(fd, *about))
    reader.connection.transport.register_with_event_loop(reader.connection.connection, hub)

    def turn_until(count: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while len(reader.messages) < count:
            assert time.monotonic() < deadline
            hub.run_once()

    turn_until(1)
    for _ in range(3):
        hub.run_once()
    assert len(told) == 1

    connection = reader.channel.client.connection
    connection.disconnect()
    # What opens its place may get the number of the socket that was closed.
    corner.put("q", "second")
    turn_until(2)
    assert len(told) == 2
    assert told[-1] == connection._sock.fileno()
    hub.close()


@pytest.mark.parametrize("acking", [True, False], ids=["acking", "holding"])
def test_with_an_event_loop_slow_callbacks_neither_stall_nor_starve_the_loop(corner: Corner, acking: bool):
    fill(corner, "q", *range(40))
    reader = corner.reader("q", prefetch=40)
    hub = Hub()
    longest, last = 0.0, time.monotonic()

    def work(message) -> None:
        time.sleep(0.004)
        if acking:
            hub.call_soon(message.ack)

    def tick() -> None:
        nonlocal longest, last
        longest, last = max(longest, time.monotonic() - last), time.monotonic()

    reader.on_message = work
    reader.connection.transport.register_with_event_loop(reader.connection.connection, hub)
    hub.on_tick.add(tick)
    started = time.monotonic()
    while len(reader.messages) < 40 or (acking and corner.in_flight()):
        hub.run_once()
        assert time.monotonic() - started < DEADLINE

    assert reader.bodies == list(range(40))
    assert longest < 0.7, "a lost turn of the loop would be a second"
    hub.close()


class Crowded:
    """A hundred messages, and an event loop that handles them fast, with forty at a time in its hands."""

    def __init__(self, corner: Corner, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(consuming, "SLICE_SECONDS", 60)
        fill(corner, "q", *range(100))
        self.corner = corner
        self.reader = corner.reader("q", prefetch=40)
        self.hub = Hub()
        self.reader.connection.transport.register_with_event_loop(self.reader.connection.connection, self.hub)

    def run(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while len(self.reader.messages) < count:
            assert time.monotonic() < deadline
            self.hub.run_once()

    @property
    def left(self) -> int:
        length: int = self.corner.redis.llen(self.corner.prefix + "q")
        return length


def test_more_is_taken_while_half_is_still_to_be_handled(corner: Corner, monkeypatch: pytest.MonkeyPatch):
    crowded = Crowded(corner, monkeypatch)
    lengths = []

    def work(message: Any) -> None:
        message.ack()
        handled = len(crowded.reader.messages)
        if handled == 30:
            eventually(lambda: crowded.left == 40)
        lengths.append(crowded.left)
        assert 100 - crowded.left - handled < 40, "more than it may have"

    crowded.reader.on_message = work
    crowded.run(100)

    assert crowded.reader.bodies == list(range(100))
    assert lengths[:19] == [60] * 19
    assert corner.waiting("q") == []
    crowded.hub.close()


def test_one_by_one_nothing_is_taken_before_its_time(corner: Corner, monkeypatch: pytest.MonkeyPatch):
    crowded = Crowded(corner, monkeypatch)
    # As `worker_disable_prefetch` has it.
    crowded.reader.channel.qos.can_consume = lambda: True
    crowded.reader.on_message = lambda message: message.ack() or lengths.append(crowded.left)
    lengths: list[int] = []

    crowded.run(10)

    assert lengths == list(range(99, 89, -1))
    crowded.hub.close()


@pytest.mark.parametrize("ending", ["closes", "dies"])
def test_what_is_taken_meanwhile_comes_back_when_its_worker(
    corner: Corner, monkeypatch: pytest.MonkeyPatch, ending: str
):
    crowded = Crowded(corner, monkeypatch)

    class EndError(Exception):
        pass

    def work(message: Any) -> None:
        message.ack()
        if len(crowded.reader.messages) == 30:
            eventually(lambda: crowded.left == 40)
            raise EndError

    crowded.reader.on_message = work
    with pytest.raises(EndError):
        crowded.run(100)
    if ending == "dies":
        crowded.reader.die()
    else:
        crowded.reader.close()

    second = corner.reader("q")
    # Of one that dies only those acks are known that went along with the second take.
    count = 80 if ending == "dies" else 70
    second.drain(count)
    assert sorted(second.bodies) == list(range(100 - count, 100))
    assert second.nothing()
    crowded.hub.close()


@pytest.mark.parametrize(("in_process", "rush"), [(True, True), (True, False), (False, True)])
def test_in_a_rush_a_worker_that_handles_messages_itself_lets_some_come_together(
    corner: Corner, in_process: bool, rush: bool
):
    corner.put("q", 0)
    reader = corner.reader("q")
    hub = Hub()
    reader.connection.transport.register_with_event_loop(reader.connection.connection, hub)
    if in_process:
        reader.channel.hooks = ChannelLane(reader.channel)
        reader.channel.hooks.serve("q", None, lambda *_: False)
    reader.channel._pace = SimpleNamespace(is_rush=rush, note=lambda _: None)
    rested = []
    reader.on_message = lambda message: message.ack()

    for count in range(1, 6):
        while len(reader.messages) < count:
            hub.run_once()
        rested.append(reader.channel._resting_until > 0.0)
        corner.put("q", count)
    # A rest ends by itself, and not with the loop's patience.
    started = time.monotonic()
    while len(reader.messages) < 6:
        hub.run_once()

    assert time.monotonic() - started < 0.7
    assert rested[-1] is (in_process and rush)
    assert reader.bodies == list(range(6))
    hub.close()


def test_a_rush_is_many_messages_one_soon_after_the_other(monkeypatch: pytest.MonkeyPatch):
    pace, now = Pace(), 0.0
    monkeypatch.setattr(taking, "monotonic", lambda: now)
    seen = []
    # One a millisecond, for a while; a hundred at once; then one in a while.
    for pause, count in [*[(0.001, 1)] * 30, (0.05, 100), *[(0.05, 1)] * 4]:
        now += pause
        pace.note(count)
        pace.note(0)
        seen.append(pace.is_rush)

    assert not any(seen[:10]), "a few are no rush"
    assert all(seen[25:31])
    assert not any(seen[31:]), "with the first break it is over"


def test_a_message_without_a_tag_is_consumed(corner: Corner):
    corner.redis.lpush(corner.prefix + "q", json.dumps({"body": "1", "content-type": "application/json",
        "content-encoding": "utf-8", "headers": {}, "properties": {}}))  # fmt: skip
    reader = corner.reader("q")

    [message] = reader.drain(1)
    message.ack()

    assert message.payload == 1
    assert corner.in_flight() == {}


@pytest.mark.parametrize("text", [b"not json", b"{}", b"null", b"\xff", b'{"properties": {}, "headers": 5}'])
def test_a_text_that_is_no_message_is_delivered_as_bytes_and_kills_nobody(corner: Corner, text: bytes):
    corner.redis.lpush(corner.prefix + "q", text)
    fill(corner, "q", 2)
    reader = corner.reader("q")

    garbage, good = reader.drain(2)

    assert (garbage.content_type, garbage.body) == (UNREADABLE, text)
    assert good.payload == 2
    garbage.reject(requeue=True)
    assert corner.redis.lrange(corner.prefix + "q", 0, -1) == [text]


def test_the_scripts_are_loaded_again_when_the_server_forgot_them(corner: Corner):
    reader = corner.reader("q")
    for n in range(3):
        corner.redis.script_flush()
        fill(corner, "q", n)
        reader.drain(n + 1)
        corner.redis.script_flush()
        reader.messages[-1].ack()

    assert reader.bodies == [0, 1, 2]
    assert corner.in_flight() == {}


def test_a_key_of_another_kind_in_place_of_a_queue_is_named_once_and_the_other_queues_go_on(
    corner: Corner, caplog: pytest.LogCaptureFixture
):
    reader = corner.reader("good", "bad", prefetch=10)
    assert reader.nothing(0.1)
    corner.redis.hset(corner.prefix + "bad", "x", 1)
    fill(corner, "good", 1, 2)

    reader.drain(2)
    before = corner.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert reader.nothing(1.5)

    assert reader.bodies == [1, 2]
    assert caplog.text.count(f"the key {corner.prefix}bad in Redis is no list") == 1
    assert corner.redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 100, "it does not ask all the time"
    assert corner.connect().channel().basic_get("bad") is None
    corner.redis.delete(corner.prefix + "bad")
    fill(corner, "bad", 3)
    assert reader.drain(3)[-1].payload == 3


@pytest.mark.parametrize("count", [2, 450])
def test_what_cannot_go_back_to_its_queue_keeps_nothing_else_from_going_back(
    corner: Corner, count: int, caplog: pytest.LogCaptureFixture
):
    for n in range(count):
        corner.put("bad" if n % 2 else "good", n)
    dead = corner.reader("good", "bad", prefetch=count)
    dead.drain(count)
    dead.die()
    corner.redis.hset(corner.prefix + "bad", "x", 1)
    other = corner.reader("third")
    assert other.nothing(0.1)

    eventually(lambda: len(corner.waiting("good")) == count / 2)

    assert sum(corner.in_flight().values()) == count / 2
    corner.redis.delete(corner.prefix + "bad")
    eventually(lambda: corner.bodies("bad") == list(range(1, count, 2)))
    assert caplog.text.count("is no list") == 1


def test_a_requeued_message_waits_until_its_queue_is_one_again(corner: Corner):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    [message] = reader.drain(1)
    corner.redis.hset(corner.prefix + "q", "x", 1)

    message.requeue()
    corner.redis.delete(corner.prefix + "q")

    assert reader.drain(2)[-1].payload == 1


# -- the lease ---------------------------------------------------------------------------------------------------------


def test_a_delivery_knows_its_tag_so_that_a_script_can_ack_it(corner: Corner):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    [message] = reader.drain(1)

    receipt = Receipt.of(message.properties)

    assert receipt is not None
    owner, _, _ = receipt.tag.rpartition(":")
    assert [owner] == corner.owners()
    inflight = Keys(corner.prefix).inflight(owner)
    assert corner.redis.hdel(inflight, receipt.tag) == 1
    assert corner.redis.hdel(inflight, receipt.tag) == 0
    message.ack()  # once more, by the worker: no harm
    reader.close()
    assert corner.waiting("q") == []


# -- returning ---------------------------------------------------------------------------------------------------------


def test_a_requeued_message_is_next_in_its_own_queue_and_is_counted(corner: Corner):
    channel = corner.connect().channel()
    for name in ("a", "b"):
        Queue(name, EVENTS, routing_key="order.*", channel=channel).declare()
    for n in (1, 2):
        corner.publish("order.placed", n)
    reader = corner.reader("a", prefetch=1)
    [message] = reader.drain(1)

    message.requeue()

    assert corner.bodies("a") == [1, 2]
    assert corner.bodies("b") == [1, 2]
    again = reader.drain(2)[-1]
    assert (again.payload, again.delivery_info["redelivered"], again.headers["x-delivery-count"]) == (1, True, 1)
    assert "redelivered" not in message.delivery_info
    again.requeue()
    assert reader.drain(3)[-1].headers["x-delivery-count"] == 2


def test_a_rejected_message_is_gone(corner: Corner):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    [message] = reader.drain(1)

    message.reject()
    reader.close()

    assert corner.in_flight() == {}
    assert corner.waiting("q") == []


def test_a_consumer_that_closes_returns_what_it_did_not_ack_in_the_original_order(corner: Corner):
    fill(corner, "q", *range(6))
    corner.put("q", 90, priority=9)
    reader = corner.reader("q", prefetch=5)
    for message in reader.drain(3)[:2]:
        message.ack()

    reader.close()

    assert corner.bodies("q") == [2, 3, 4, 5]
    assert corner.bodies("q\x06\x169") == [90]
    assert corner.in_flight() == {}
    assert corner.owners() == []
    delivered, prefetched = corner.waiting("q")[:2]
    assert delivered["properties"]["delivery_info"]["redelivered"] is True
    assert "redelivered" not in prefetched["properties"]["delivery_info"]
    assert "x-delivery-count" not in delivered["headers"], "a clean stop is no failed attempt"


def test_a_large_number_of_messages_returns_in_order_too(corner: Corner):
    fill(corner, "q", *range(450))
    reader = corner.reader("q", prefetch=450)
    reader.drain(450)

    reader.close()

    assert corner.bodies("q") == list(range(450))


def test_cancelling_returns_what_was_not_delivered_yet(corner: Corner):
    fill(corner, "q", *range(5))
    reader = corner.reader("q", prefetch=4)
    reader.drain(1)

    reader.consumer.cancel()

    assert corner.bodies("q") == [1, 2, 3, 4]
    reader.messages[0].ack()
    assert corner.in_flight() == {}


def test_recover_returns_everything_in_order(corner: Corner):
    fill(corner, "q", 1, 2, 3)
    reader = corner.reader("q", prefetch=3)
    reader.drain(3)

    reader.consumer.recover(requeue=True)

    assert corner.bodies("q") == [1, 2, 3]


def test_acks_are_sent_before_the_channel_ends(corner: Corner):
    fill(corner, "q", 1, 2)
    reader = corner.reader("q", prefetch=2)
    reader.on_message = lambda message: message.ack()
    reader.drain(2)

    reader.close()

    assert corner.waiting("q") == []
    assert corner.in_flight() == {}


def test_a_beat_while_its_consumer_leaves_does_not_keep_the_messages_from_going_back(
    corner: Corner, monkeypatch: pytest.MonkeyPatch
):
    fill(corner, "q", 1)
    reader = corner.reader("q")
    reader.drain(1)
    own = reader.channel.own()
    call = own._wire.call

    def beat_just_after_leaving(script: scripts.Script, *args):
        answer = call(script, *args)
        if script is scripts.LEAVE:
            own.beat()
        return answer

    monkeypatch.setattr(own._wire, "call", beat_just_after_leaving)
    reader.close()

    assert corner.bodies("q") == [1]
    assert corner.in_flight() == {}
    assert corner.owners() == []


def test_acks_that_another_thread_takes_first_are_no_error(corner: Corner):
    class Emptied(deque):
        def popleft(self):
            self.clear()
            return super().popleft()

    reader = corner.reader("q")
    own = reader.channel.own()
    own._acks = Emptied([f"{own.owner}:1"])

    assert own.take_acks() == []


# -- dying -------------------------------------------------------------------------------------------------------------


def test_the_messages_of_a_dead_consumer_come_back_and_are_counted(corner: Corner):
    fill(corner, "q", 1, 2)
    dead = corner.reader("q", prefetch=2)
    dead.drain(2)
    dead.die()
    survivor = corner.reader("q")

    survivor.drain(2)

    assert survivor.bodies == [1, 2]
    assert [message.headers["x-delivery-count"] for message in survivor.messages] == [1, 1]
    eventually(lambda: len(corner.owners()) == 1)


def test_a_message_that_cannot_be_counted_comes_back_and_ends_no_heart(corner: Corner):
    text = b'{"body": "1", "content-type": "application/json", "content-encoding": "utf-8", '
    text += b'"headers": {"x-delivery-count": Infinity}, "properties": {}}'
    corner.redis.lpush(corner.prefix + "q", text)
    dead = corner.reader("q")
    dead.drain(1)
    dead.die()
    survivor = corner.reader("q")

    survivor.drain(1)

    assert has_a_heart(survivor.channel.own())


def has_a_heart(own: Ownership) -> bool:
    return any(thread.name == f"choreo-heart-{own.owner}" for thread in threading.enumerate())


@pytest.mark.parametrize("step", ["_catch_up", "repair_bindings", "recover", "check"])
def test_nothing_that_a_heart_stumbles_over_makes_it_stop(
    corner: Corner, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def stumble(*_) -> None:
        raise OverflowError("nobody thought of this")

    # A new consumer's thread first checks the server.
    monkeypatch.setattr(server_settings if step == "check" else Ownership, step, stumble)
    fill(corner, "q", 1, 2)
    dead = corner.reader("q")
    dead.drain(1)
    dead.die()
    living = corner.reader("q")
    living.drain(1)

    assert living.nothing(TIMEOUT * 3) or step != "recover"

    own = living.channel.own()
    assert own.owner in corner.owners()
    assert has_a_heart(own)
    said = dead.messages[0].delivery_info["choreo_tag"].rpartition(":")[0] if step == "recover" else own.owner
    assert sum(said in line and "ERROR" in line for line in caplog.text.splitlines()) == 1


def test_one_service_acking_does_not_take_the_crash_protection_from_another(corner: Corner):
    channel = corner.connect().channel()
    for name in ("a", "b"):
        Queue(name, EVENTS, routing_key="order.*", channel=channel).declare()
    corner.publish("order.placed", 1)
    dies, acks = corner.reader("a"), corner.reader("b")
    dies.drain(1)
    acks.drain(1)[0].ack()

    dies.die()

    again = corner.reader("a")
    again.drain(1)
    assert again.bodies == [1]
    assert acks.nothing(), "what came back to one queue is nobody else's business"


@pytest.mark.parametrize("prefix", ["", "[odd*]:"])
def test_what_a_dead_consumer_held_comes_back_though_redis_has_forgotten_who_lived(redis_url: str, prefix: str):
    corner = Corner(redis_url, f"{uuid4().hex}:{prefix}")
    fill(corner, "q", 1)
    dead = corner.reader("q")
    dead.drain(1)
    dead.die()
    corner.redis.delete(f"{corner.prefix}_choreo.consumers")

    starts = corner.reader("q")
    starts.drain(1)

    assert starts.bodies == [1]
    corner.close()


def test_whoever_lives_keeps_its_messages_though_redis_has_forgotten_who_lived(corner: Corner):
    fill(corner, "q", 1)
    living = corner.reader("q")
    living.drain(1)
    corner.redis.delete(f"{corner.prefix}_choreo.consumers")

    starts = corner.reader("q")

    assert starts.nothing(TIMEOUT * 3)
    assert living.channel.own().owner in corner.owners()


def test_a_message_is_its_owners_as_long_as_the_owner_lives(corner: Corner):
    fill(corner, "q", 1)
    busy, idle = corner.reader("q"), corner.reader("q")
    busy.drain(1)

    assert idle.nothing(TIMEOUT * 3)

    busy.messages[0].ack()
    assert corner.in_flight() == {}


def test_a_stopped_process_loses_its_messages_and_its_late_acks_do_no_harm(corner: Corner):
    fill(corner, "q", 1)
    zombie = corner.reader("q")
    [message] = zombie.drain(1)
    own = zombie.channel.own()
    before = own.owner
    # As SIGSTOP would: no beats for longer than the timeout.
    own._beating.acquire()
    other = corner.reader("q")
    [again] = other.drain(1)
    own._beating.release()

    message.ack()

    assert list(corner.in_flight().values()) == [1], "the second delivery is still the other's"
    eventually(lambda: own.owner != before, reason="the zombie carries on under a new name")
    again.ack()
    fill(corner, "q", 2)
    other.close()
    assert zombie.drain(2)[-1].payload == 2


def test_what_a_zombie_prefetched_is_not_delivered_twice(corner: Corner):
    fill(corner, "q", 1, 2)
    zombie = corner.reader("q", prefetch=2)
    zombie.drain(1)
    zombie.channel.own()._beating.acquire()
    other = corner.reader("q", prefetch=2)
    other.drain(2)
    zombie.channel.own()._beating.release()

    assert zombie.nothing(1.0)
    assert sorted(other.bodies) == [1, 2]


@contextmanager
def answer_lost(corner: Corner, port: int, **options) -> Iterator[Reader]:
    """A consumer whose take was carried out, while the answer to it never arrives (trap T3): the worst instant."""
    with proxy_to(port) as proxy:
        url = corner.url.replace(f":{port}/", f":{proxy.port}/")
        reader = corner.reader("q", url=url, socket_timeout=1, **options)
        reader.channel.own()
        reader.channel.wire.load(scripts.TAKE)
        fill(corner, "q", 1)
        proxy.set("drop_down")
        with suppress(TimeoutError):
            reader.connection.drain_events(timeout=0.5)
        assert list(corner.in_flight().values()) == [1]
        assert reader.bodies == []
        yield reader
        proxy.set("ok")
        proxy.cut()


def test_a_lost_answer_loses_no_message(corner: Corner, redis_server: EmbeddedServer):
    with answer_lost(corner, redis_server.port) as reader:
        reader.die()

        again = corner.reader("q")
        again.drain(1)

    assert again.bodies == [1]


def test_a_lost_answer_comes_back_although_its_consumer_lives_on(corner: Corner, redis_server: EmbeddedServer):
    with answer_lost(corner, redis_server.port, consumer_timeout=600) as reader:
        pass

    with pytest.raises(reader.connection.recoverable_connection_errors):
        reader.connection.drain_events(timeout=DEADLINE)

    other = corner.reader("q")
    other.drain(1)
    assert other.bodies == [1]


def test_a_lost_answer_on_a_socket_that_stays_open_comes_back_once_kombu_gives_the_socket_up(
    corner: Corner, redis_server: EmbeddedServer
):
    with proxy_to(redis_server.port) as proxy:
        url = corner.url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        reader = corner.reader("q", url=url, consumer_timeout=600)
        reader.channel.own()
        reader.channel.wire.load(scripts.TAKE)
        fill(corner, "q", 1)
        proxy.set("drop_down")
        with suppress(TimeoutError):
            reader.connection.drain_events(timeout=0.5)
        assert list(corner.in_flight().values()) == [1]
        proxy.set("ok")
        reader.channel.health_check_interval = 1

        eventually(lambda: reader.nothing(0.2) is False, reason="long before the timeout of 600 s")

        assert reader.bodies == [1]


def test_a_patient_consumer_returns_what_a_less_patient_one_died_with(corner: Corner):
    fill(corner, "q", 1)
    dead = corner.reader("q")
    dead.drain(1)
    dead.die()
    fill(corner, "other", 2)
    # It takes nothing more, so that its beats are the only signs of life that it gives.
    patient = corner.reader("other", prefetch=1, consumer_timeout=TIMEOUT * 4)
    patient.drain(1)

    eventually(lambda: corner.bodies("q") == [1])


# -- what the scripts decide and no consumer shows by itself -----------------------------------------------------------


def consumers_of(corner: Corner) -> str:
    return f"{corner.prefix}_choreo.consumers"


def beat(corner: Corner, owner: str) -> list[bytes]:
    """One beat of an owner; who is dead."""
    keys = [f"{corner.prefix}_choreo.consumers", f"{corner.prefix}_choreo.inflight.{owner}"]
    _, *dead = corner.connect().channel().wire.call(scripts.BEAT, keys, [owner, owner.rpartition("-")[2], "0"])
    return dead


def heard_of(corner: Corner, owner: str, ago: float) -> None:
    """As if the owner had given its last sign of life so many seconds ago."""
    seconds, microseconds = corner.redis.time()
    until = seconds * 1000 + microseconds // 1000 + int(owner.rpartition("-")[2]) - int(ago * 1000)
    corner.redis.zadd(f"{corner.prefix}_choreo.consumers", {owner: until})


def test_who_beats_too_rarely_to_know_gives_an_owner_a_second_chance_and_no_third(corner: Corner):
    heard_of(corner, "judge-6000", ago=2)
    heard_of(corner, "quick-300", ago=1)
    assert beat(corner, "judge-6000") == []

    # The server was away, and the owner is back.
    assert beat(corner, "quick-300") == []
    heard_of(corner, "judge-6000", ago=2)
    assert beat(corner, "judge-6000") == []
    heard_of(corner, "quick-300", ago=1)
    assert beat(corner, "judge-6000") == [b"quick-300"], "it beat a moment ago, so it knows"

    heard_of(corner, "judge-6000", ago=2)
    assert beat(corner, "judge-6000") == []
    time.sleep(0.4)
    heard_of(corner, "judge-6000", ago=2)
    assert beat(corner, "judge-6000") == [b"quick-300"]


def test_who_was_away_itself_judges_nobody(corner: Corner):
    heard_of(corner, "quick-300", ago=1)
    heard_of(corner, "quick-too-300", ago=0)
    heard_of(corner, "judge-6000", ago=4)

    assert beat(corner, "judge-6000") == []


def test_what_a_leaving_owner_left_is_anybodys(corner: Corner):
    heard_of(corner, "judge-6000", ago=2)
    corner.redis.zadd(f"{corner.prefix}_choreo.consumers", {"gone-300": 0})

    assert beat(corner, "judge-6000") == [b"gone-300"]


@pytest.mark.parametrize("deadline", [None, 0], ids=["buried", "leaving"])
def test_nothing_is_taken_for_an_owner_that_would_not_get_it_back(corner: Corner, deadline: int | None):
    fill(corner, "q", 1)
    if deadline is not None:
        corner.redis.zadd(f"{corner.prefix}_choreo.consumers", {"owner": deadline})

    assert take(corner, 1) == [-1]

    assert corner.bodies("q") == [1]
    assert corner.in_flight() == {}


def test_who_leaves_messages_behind_wakes_the_next_consumer(corner: Corner):
    fill(corner, "q", 1, 2)
    corner.redis.zadd(f"{corner.prefix}_choreo.consumers", {"owner": 9e15})
    token = f"{corner.prefix}_choreo.wake.q"
    corner.redis.delete(token)

    assert take(corner, 1)[0] == 1
    assert corner.redis.llen(token) == 1
    assert take(corner, 1)[0] == 0
    assert corner.redis.llen(token) == 0


@pytest.mark.parametrize("first", ["beat", "take"])
def test_after_an_outage_the_first_sign_of_life_gives_all_owners_their_time_again(corner: Corner, first: str):
    """Whatever it is; and also to those that have a moment left, and if there are more than one beat can bury."""
    owners = {f"other-{number}-{timeout}": ago for timeout, ago in ((1000, 3), (4000, 3)) for number in range(150)}
    for owner, ago in owners.items():
        heard_of(corner, owner, ago)
    heard_of(corner, "judge-1000", ago=3)

    assert (beat(corner, "judge-1000") or [0] if first == "beat" else take(corner, 1, "judge-1000")) == [0]

    assert beat(corner, "judge-1000") == []
    seconds, microseconds = corner.redis.time()
    now = seconds * 1000 + microseconds // 1000
    left = {
        owner.decode(): until - now
        for owner, until in corner.redis.zrange(consumers_of(corner), 0, -1, withscores=True)
    }
    assert {owner for owner in owners if left[owner] < int(owner.rpartition("-")[2]) / 2} == set()


def test_a_take_within_moments_of_the_last_buries_nobody_and_saves_nobody(corner: Corner):
    heard_of(corner, "quick-2000", ago=3)
    heard_of(corner, "judge-6000", ago=0.4)

    assert take(corner, 1, "judge-6000") == [0]

    assert beat(corner, "judge-6000") == [b"quick-2000"]


def take(corner: Corner, limit: int, owner: str = "owner") -> list:
    channel = corner.connect().channel()
    prefix = corner.prefix
    keys = [consumers_of(corner), f"{prefix}_choreo.inflight.{owner}", prefix + "_choreo.wake.q", prefix + "q"]
    return channel.wire.call(scripts.TAKE, keys, [owner, limit, limit, 0, 1, "0", ""])


CONSUMER = """
import os, sys, time
from kombu import Connection, Consumer, Exchange, Queue
url, prefix, transport, timeout = sys.argv[1:]
options = {"global_keyprefix": prefix, "consumer_timeout": float(timeout)}
connection = Connection(url, transport=transport, transport_options=options)
def got(body, message):
    print("got", body, flush=True)
queue = Queue("q", exchange=Exchange(""))
with Consumer(connection.channel(), [queue], callbacks=[got], accept=["json"], prefetch_count=3, auto_declare=False):
    while True:
        try:
            connection.drain_events(timeout=1)
        except TimeoutError:
            pass
"""


@pytest.fixture
def process(corner: Corner):
    """A consumer in a process of its own, which takes and never acks."""
    child = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, corner.url, corner.prefix, TRANSPORT, str(TIMEOUT)],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield child
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGCONT)
    child.kill()
    child.wait()
    child.stdout.close()


def test_kill_9_loses_nothing(corner: Corner, process: subprocess.Popen):
    fill(corner, "q", *range(5))
    assert process.stdout.readline() == "got 0\n"
    process.kill()

    survivor = corner.reader("q", prefetch=10)
    survivor.drain(5)

    assert sorted(survivor.bodies) == list(range(5))


def test_sigstop_is_silence_and_sigcont_finds_its_messages_gone(corner: Corner, process: subprocess.Popen):
    fill(corner, "q", 1)
    assert process.stdout.readline() == "got 1\n"
    [before] = corner.owners()
    process.send_signal(signal.SIGSTOP)
    survivor = corner.reader("q")
    survivor.drain(1)

    process.send_signal(signal.SIGCONT)

    survivor.messages[0].ack()
    survivor.close()
    eventually(lambda: [owner for owner in corner.owners() if owner != before], reason="it registers again")
    fill(corner, "q", 2)
    assert process.stdout.readline() == "got 2\n"
    assert before not in corner.owners()


def test_a_forked_child_leaves_its_parents_claim_alone(corner: Corner):
    fill(corner, "q", 1, 2)
    reader = corner.reader("q", prefetch=2)
    [message] = reader.drain(1)

    child = os.fork()
    if child == 0:
        try:
            message.ack()
            reader.connection.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert list(corner.in_flight().values()) == [2]
    assert corner.waiting("q") == []
    message.ack()
    assert reader.drain(2)[-1].payload == 2
    reader.messages[-1].ack()
    assert corner.in_flight() == {}


def test_several_consumers_that_find_the_same_dead_one_return_its_messages_once(corner: Corner):
    fill(corner, "q", *range(20))
    dead = corner.reader("q", prefetch=20)
    dead.drain(20)
    dead.die()
    readers = [corner.reader("q", prefetch=20) for _ in range(3)]

    def returned() -> list[int]:
        for reader in readers:
            with suppress(TimeoutError):
                reader.connection.drain_events(timeout=0.05)
        return sorted(body for reader in readers for body in reader.bodies)

    eventually(lambda: len(returned()) >= 20)
    assert returned() == list(range(20))
