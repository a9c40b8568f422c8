"""Redis in trouble: it forgets, restarts, refuses, or is silent. Publishers hear of it in time, consumers go on."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from kombu import Connection, Queue
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, RedisError

from choreo.broker.redis import server_settings as settings
from choreo.broker.redis.transport import Transport
from choreo.local.server import EmbeddedServer
from tests.contract.redis_broker import EVENTS, TIMEOUT, Corner, Reader, proxy_to
from tests.waiting import DEADLINE, eventually


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that a test may maltreat."""
    with EmbeddedServer(persistent=True) as server:
        yield server


@pytest.fixture
def own(server: EmbeddedServer) -> Iterator[Corner]:
    corner = Corner(server.url, "own:")
    yield corner
    corner.close()


def consume_until(reader: Reader, count: int, seconds: float = DEADLINE) -> None:
    """Read as a worker does: reconnect whenever the connection breaks."""
    deadline = time.monotonic() + seconds
    while len(reader.messages) < count and time.monotonic() < deadline:
        try:
            reader.connection.drain_events(timeout=0.5)
        except TimeoutError:
            pass
        except reader.connection.recoverable_connection_errors:
            time.sleep(0.05)
    assert len(reader.messages) >= count


def consume_nothing(reader: Reader, seconds: float = DEADLINE) -> None:
    """Wait for messages that do not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            reader.connection.drain_events(timeout=0.5)


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_bindings_that_redis_lost_are_back_soon_and_the_loss_is_loud(own: Corner, caplog: pytest.LogCaptureFixture):
    readers = [own.reader(Queue(f"q{n}", EVENTS, routing_key="order.*")) for n in range(3)]
    for reader in readers:
        assert reader.nothing(0.05)
    assert own.publish("order.placed") == 3

    own.redis.flushall()

    eventually(lambda: own.publish("order.placed") == 3)
    assert "Redis has lost its memory" in caplog.text
    assert "`appendonly yes`" in caplog.text
    for reader in readers:
        consume_until(reader, 1)


def test_one_evicted_binding_table_is_repaired_by_everybody_it_concerns(own: Corner):
    readers = [own.reader(Queue(f"q{n}", EVENTS, routing_key="order.*")) for n in range(3)]
    for reader in readers:
        assert reader.nothing(0.05)

    own.redis.delete("own:_kombu.binding.events")

    eventually(lambda: own.publish("order.placed") == 3)


def start_another(own: Corner) -> int:
    Queue("new", EVENTS, routing_key="order.*", channel=own.connect().channel()).declare()
    return 4


def unbind_one(own: Corner) -> int:
    own.connect().channel().queue_unbind("gone", exchange="events", routing_key="order.*")
    return 3


def delete_one(own: Corner) -> int:
    own.connect().channel().queue_delete("gone")
    return 3


@pytest.mark.parametrize("meanwhile", [start_another, unbind_one, delete_one])
def test_an_evicted_binding_table_is_repaired_although_somebody_changes_it_first(
    own: Corner, meanwhile: Callable[[Corner], int]
):
    readers = [own.reader(Queue(f"q{n}", EVENTS, routing_key="order.*")) for n in range(3)]
    for reader in readers:
        assert reader.nothing(0.05)

    own.redis.delete("own:_kombu.binding.events", "own:_choreo.routes.events")
    expected = meanwhile(own)

    eventually(lambda: own.publish("order.placed") == expected)


def test_a_living_consumer_does_not_bring_back_a_binding_that_somebody_removed(own: Corner):
    reader = own.reader(
        Queue("q", EVENTS, routing_key="order.*"), Queue("other", EVENTS, routing_key="menu.*"), consumer_timeout=0.6
    )
    assert reader.nothing(0.1)

    own.connect().channel().queue_unbind("q", exchange="events", routing_key="order.*")

    assert reader.nothing(1.0)
    assert own.publish("order.placed") == 0
    assert own.publish("menu.changed") == 1


# -- restarting --------------------------------------------------------------------------------------------------------


def went_through(publish: Callable[[], object]) -> bool:
    try:
        publish()
    except RedisError:
        return False
    return True


def test_after_a_restart_publisher_and_consumer_go_on_and_nothing_is_lost(server: EmbeddedServer, own: Corner):
    reader = own.reader(Queue("q", EVENTS, routing_key="order.*"), prefetch=10)
    for n in range(5):
        own.publish("order.placed", n)
    reader.drain(2)[0].ack()

    server.kill()
    server.restart()

    # Whoever spoke with the server a moment ago is told of the cut, and sends again.
    eventually(lambda: went_through(lambda: own.publish("order.placed", 5)))
    reader.messages[1].ack()
    consume_until(reader, 6)
    assert sorted(reader.bodies[:6]) == list(range(6))
    for message in reader.messages[2:]:
        message.ack()
    eventually(lambda: own.in_flight() == {})


def test_acks_made_while_redis_was_away_are_not_forgotten(server: EmbeddedServer, own: Corner):
    own.put("q", 1)
    reader = own.reader("q")
    [message] = reader.drain(1)
    server.kill()
    with suppress(RedisError):
        message.ack()

    server.restart()

    with suppress(*reader.connection.recoverable_connection_errors, TimeoutError):
        reader.connection.drain_events(timeout=0.5)
    eventually(lambda: own.in_flight() == {})
    reader.close()
    assert own.waiting("q") == []


def test_messages_are_returned_once_redis_is_back_although_the_channel_ended_meanwhile(
    server: EmbeddedServer, own: Corner
):
    own.put("q", 1)
    reader = own.reader("q", consumer_timeout=600)
    reader.drain(1)
    server.kill()

    reader.close()
    server.restart()

    eventually(lambda: own.bodies("q") == [1], reason="long before the timeout of 600 s")


def test_a_server_that_was_away_does_not_make_its_consumers_look_dead(server: EmbeddedServer, own: Corner):
    silence = 4 * TIMEOUT  # a busy machine may keep a live consumer silent for a second or two
    readers = [own.reader("q", consumer_timeout=silence) for _ in range(4)]
    for n, reader in enumerate(readers):
        own.put("q", n)
        reader.drain(1)
    before = own.in_flight()
    idle = own.reader("q", consumer_timeout=600)
    assert idle.nothing(TIMEOUT / 2)

    server.kill()
    time.sleep(silence * 1.25)  # longer than any of them may be silent
    server.restart()

    until = time.monotonic() + silence * 1.25
    while time.monotonic() < until:
        with suppress(TimeoutError, *idle.connection.recoverable_connection_errors):
            idle.connection.drain_events(timeout=0.2)
    assert idle.bodies == []
    assert own.in_flight() == before


# -- refusing ----------------------------------------------------------------------------------------------------------


def test_a_full_server_refuses_a_publish_and_still_lets_consumers_empty_it(own: Corner):
    Queue("a", EVENTS, routing_key="order.*", channel=own.connect().channel()).declare()
    Queue("b", EVENTS, routing_key="order.*", channel=own.connect().channel()).declare()
    for n in range(20):
        own.publish("order.placed", {"n": n})
    own.redis.config_set("maxmemory", "1")

    with pytest.raises(OutOfMemoryError):
        own.publish("order.placed", {"n": 99})

    assert own.redis.llen("own:a") == own.redis.llen("own:b") == 20
    reader = own.reader("a", prefetch=30)
    reader.on_message = lambda message: message.ack()
    reader.drain(20)
    assert own.in_flight() == {}
    own.redis.config_set("maxmemory", "0")


def test_a_read_only_replica_refuses_a_publish_and_a_consumer_waits_for_a_master(own: Corner):
    reader = own.reader("q")
    assert reader.nothing(0.1)
    own.producer.channel  # noqa: B018 - connected while it still was a master
    own.redis.execute_command("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises((ReadOnlyError, RedisError), match=r"(?i)read ?only|master"):
        own.put("q", 1)
    with pytest.raises(reader.connection.recoverable_connection_errors):
        consume_nothing(reader)

    own.redis.execute_command("REPLICAOF", "NO", "ONE")
    own.put("q", 1)
    consume_until(reader, 1)


def test_a_wrong_password_is_a_clear_error(server: EmbeddedServer):
    url = f"redis://:wrong@127.0.0.1:{server.port}/0"

    with (
        Connection(url, transport="choreo.broker.redis.transport:Transport") as connection,
        pytest.raises(AuthenticationError),
    ):
        connection.channel()


def test_a_server_that_does_not_let_us_read_its_settings_is_no_problem(own: Corner):
    own.redis.acl_setuser("shy", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"],
                          commands=["-config"])  # fmt: skip
    settings._warned.clear()
    shy = Corner(f"redis://shy:x@{own.url.rpartition('@')[2]}", own.prefix)
    try:
        shy.put("q", 1)
        assert shy.reader("q").drain(1)[0].payload == 1
    finally:
        shy.close()


# -- not answering -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["stall", "drop_down"])
def test_a_publish_into_a_silent_network_raises_in_time(own: Corner, server: EmbeddedServer, mode: str):
    with proxy_to(server.port) as proxy:
        url = own.url.replace(f":{server.port}/", f":{proxy.port}/")
        producer = own.connect(url, socket_timeout=0.5).Producer()
        producer.publish(1, exchange=EVENTS, routing_key="order.placed", declare=[EVENTS])
        proxy.set(mode)

        started = time.monotonic()
        with pytest.raises(producer.connection.connection_errors):
            producer.publish(2, exchange=EVENTS, routing_key="order.placed")
        assert time.monotonic() - started < DEADLINE / 2

        proxy.set("ok")
        proxy.cut()
        producer.publish(3, exchange=EVENTS, routing_key="order.placed")


def test_a_delivered_message_that_could_not_be_returned_at_once_is_marked_as_delivered_before(
    own: Corner, server: EmbeddedServer
):
    own.put("q", 1)
    with proxy_to(server.port) as proxy:
        url = own.url.replace(f":{server.port}/", f":{proxy.port}/")
        reader = own.reader("q", url=url, socket_timeout=0.5)
        (message,) = reader.drain(1)
        proxy.set("stall")
        reader.channel.give_back([str(message.delivery_tag)], counted=False)
        proxy.set("ok")
        proxy.cut()

        (text,) = eventually(lambda: own.waiting("q"))

    assert text["properties"]["delivery_info"]["redelivered"] is True


def test_a_connection_that_was_cut_while_idle_is_replaced_before_a_publish_uses_it(own: Corner, server: EmbeddedServer):
    with proxy_to(server.port) as proxy:
        producer = own.connect(own.url.replace(f":{server.port}/", f":{proxy.port}/")).Producer()
        producer.publish(1, exchange="", routing_key="q")
        proxy.cut()
        time.sleep(0.2)  # idle: this is what the test is about

        producer.publish(2, exchange="", routing_key="q")

    assert own.bodies("q") == [1, 2]


def test_a_cut_in_the_middle_of_consuming_loses_nothing(own: Corner, server: EmbeddedServer):
    with proxy_to(server.port) as proxy:
        url = own.url.replace(f":{server.port}/", f":{proxy.port}/")
        reader = own.reader("q", url=url, prefetch=10, socket_timeout=2)
        reader.on_message = lambda message: message.ack()
        stop = threading.Event()

        def cut_now_and_then() -> None:
            while not stop.wait(0.15):
                proxy.cut()

        cutter = threading.Thread(target=cut_now_and_then)
        cutter.start()
        try:
            for n in range(300):
                own.put("q", n)
            deadline = time.monotonic() + DEADLINE
            while len(set(reader.bodies)) < 300 and time.monotonic() < deadline:
                with suppress(TimeoutError, *reader.connection.recoverable_connection_errors):
                    reader.connection.drain_events(timeout=0.5)
        finally:
            stop.set()
            cutter.join()
        assert set(reader.bodies) == set(range(300))


# -- saying so ---------------------------------------------------------------------------------------------------------


def test_settings_under_which_messages_get_lost_are_named_once(own: Corner, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "choreo.broker")
    settings._warned.clear()
    own.redis.config_set("maxmemory-policy", "allkeys-lru")
    own.redis.config_set("appendonly", "no")
    own.redis.config_set("save", "")

    for _ in range(2):
        own.put("q", 1)
        own.reader("q").drain(1)

    eventually(lambda: "appendonly" in caplog.text)
    assert caplog.text.count("Set `maxmemory-policy noeviction`") == 1
    assert caplog.text.count("Set `appendonly yes`") == 1
    assert own.url.split("@")[0].rpartition(":")[2] not in caplog.text, "the password is nobody's business"


def test_good_settings_are_not_mentioned(own: Corner, caplog: pytest.LogCaptureFixture):
    settings._warned.clear()
    own.put("q", 1)
    own.reader("q").drain(1)

    eventually(lambda: bool(settings._warned))
    assert "Set `" not in caplog.text


def test_nobody_waits_for_ever_unless_they_ask_for_it(own: Corner):
    channel = own.connect().channel()

    settings_of_a_connection = channel.pool.connection_kwargs

    assert (channel.socket_timeout, channel.socket_connect_timeout, channel.socket_keepalive) == (10, 5, True)
    assert settings_of_a_connection["socket_timeout"] == 10
    assert own.connect(socket_timeout=3).channel().pool.connection_kwargs["socket_timeout"] == 3


def test_a_key_error_in_a_handler_does_not_look_like_a_broken_connection():
    assert not issubclass(KeyError, Transport.connection_errors)


def test_a_url_of_a_unix_socket_can_name_the_transport():
    assert Connection("choreo+socket:///run/redis.sock").get_transport_cls() is Transport
