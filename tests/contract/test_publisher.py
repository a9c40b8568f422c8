"""What publishing promises on both brokers: what is confirmed is there, and what is not is said, in bounded time."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
import redis
from kombu import Queue

from choreo import Envelope, Event, PublishError, Service, unconfirmed
from choreo.broker import lines
from choreo.broker.lines import Post
from choreo.broker.rabbitmq import confirms
from choreo.declare.settings import Unheard
from choreo.errors import DeclarationError, EventTooLargeError
from choreo.events.message import Message
from tests.chaos.proxy import Proxy
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import DEADLINE, eventually

BROKERS = ("rabbitmq", "redis")
ROOT = Path(__file__).parents[2]
#: Instead of the real one, so that the tests of silence are quick.
SILENCE = 1.0


class OrderPlaced(Event):
    number: int = 0


class OrderForgotten(Event):
    """Nobody listens to it."""


class Ear:
    """A queue that hears what it is bound to, as a handler's queue does."""

    def __init__(self, app: Service, pattern: str = "order.placed", arguments: Any = None) -> None:
        self._connection = app.connection_for_read()
        self._channel = self._connection.channel()
        self.name = app.runtime.topology.name_of("ear")
        queue = Queue(self.name, app.runtime.topology.exchange, pattern, queue_arguments=arguments)
        self._queue = queue(self._channel)
        self._queue.declare()

    def heard(self) -> list[dict[str, Any]]:
        """The envelopes that arrived since the last call."""
        found = []
        while message := self._queue.get(no_ack=True):
            found.append(message.payload[0][0])
        return found

    def numbers(self) -> list[int]:
        return sorted(envelope["data"]["number"] for envelope in self.heard())

    def close(self) -> None:
        self._connection.release()


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> str:
    """Of the broker named by ``both`` or ``rabbitmq_only`` below."""
    return str(request.getfixturevalue("rabbitmq" if request.param == "rabbitmq" else "redis_url"))


both = pytest.mark.parametrize("broker_url", BROKERS, indirect=True)
rabbitmq_only = pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
redis_only = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)

AppMaker = Callable[..., Service]


@pytest.fixture
def make_app(namespace: str) -> Iterator[AppMaker]:
    made: list[Service] = []

    def make(url: str, **settings: Any) -> Service:
        config = {"choreo_namespace": namespace, "choreo_store_url": "memory://", **settings}
        made.append(Service("web", broker=url, config=config))
        return made[-1]

    yield make
    for app in made:
        if "publisher" in vars(app):
            app.publisher.close()


@pytest.fixture
def app(make_app: AppMaker, broker_url: str) -> Service:
    return make_app(broker_url)


@pytest.fixture
def ear(app: Service) -> Iterator[Ear]:
    ear = Ear(app)
    yield ear
    ear.close()


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    url = urlsplit(broker_url)
    with Proxy(url.hostname or "127.0.0.1", url.port or 5672) as proxy:
        yield proxy


@pytest.fixture
def far_app(make_app: AppMaker, broker_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Publishes through the proxy, and waits less."""
    monkeypatch.setattr(lines, "TIMEOUT", SILENCE)
    monkeypatch.setattr(confirms, "TIMEOUT", SILENCE)
    url = urlsplit(broker_url)
    user = f"{url.username or ''}:{url.password or ''}@"
    far = f"{url.scheme}://{user}127.0.0.1:{proxy.port}{url.path}"
    return make_app(far, broker_connection_timeout=SILENCE)


def seconds_to_fail(call: Callable[[], Any]) -> tuple[float, PublishError]:
    began_at = time.monotonic()
    with pytest.raises(PublishError) as caught:
        call()
    assert caught.value.is_outage
    return time.monotonic() - began_at, caught.value


# -- batches ----------------------------------------------------------------------------------------------------------


@both
def test_every_event_of_a_batch_is_there_when_the_call_returns(app: Service, ear: Ear) -> None:
    count = app.publish_many(OrderPlaced(number=number).about(f"ORD-{number}") for number in range(1200))

    assert count == 1200
    heard = ear.heard()
    assert sorted(envelope["data"]["number"] for envelope in heard) == list(range(1200))
    assert {envelope["subject"] for envelope in heard} == {f"ORD-{number}" for number in range(1200)}


@rabbitmq_only
def test_a_batch_waits_once_for_all_its_confirms(app: Service, broker_url: str, ear: Ear) -> None:
    app.publish(OrderPlaced())
    envelopes = [app.publish(OrderPlaced()) for _ in range(3)]
    line = app.publisher._lines._idle[0]
    waits = []
    collect = line._collect
    line._collect = lambda *most: waits.append(len(line._unanswered)) or collect(*most)

    app.publisher.announce(envelopes * 40)

    assert len(waits) == 1


@both
def test_a_generator_is_read_no_further_than_the_batch_that_is_sent(
    app: Service, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ahead = 0, []
    announce = app.publisher.announce

    def announce_and_note(envelopes: Any) -> Any:
        ahead.append(made)
        return announce(envelopes)

    def orders() -> Iterator[OrderPlaced]:
        nonlocal made
        for made in range(1, 1101):
            yield OrderPlaced(number=made)

    monkeypatch.setattr(app.publisher, "announce", announce_and_note)
    assert app.publish_many(orders()) == 1100

    assert ahead == [500, 1000, 1100]


@both
def test_a_failure_in_the_middle_says_how_far_it_came(app: Service, ear: Ear) -> None:
    class OrderPlacedWithEverything(OrderPlaced, type="order.placed"):
        blob: str = ""

    orders = [OrderPlaced(number=number) for number in range(700)]
    orders[600] = OrderPlacedWithEverything(blob="x" * 300_000)

    with pytest.raises(EventTooLargeError, match=r"300,\d+ bytes") as caught:
        app.publish_many(orders)

    assert caught.value.before == 500
    # Of the batch with the large one nothing was sent.
    assert ear.numbers() == list(range(500))


# -- refusals ---------------------------------------------------------------------------------------------------------


@rabbitmq_only
def test_a_message_to_a_queue_that_is_not_there_is_an_error_and_its_neighbours_arrive(app: Service, ear: Ear) -> None:
    good = [Message.carrying(app.publish(OrderPlaced()), exchange="", routing_key=ear.name) for _ in range(3)]
    lost = Message("", "web.nobody", b"[[], {}, {}]", {"id": "1", "argsrepr": "order.placed ORD-9"})
    ear.heard()

    with pytest.raises(
        PublishError, match=r"1 of 4 messages, such as 'order.placed ORD-9': .*no queue 'web.nobody'"
    ) as e:
        app.publisher.send([*good[:2], lost, good[2]])

    assert e.value.confirmed == tuple(good)
    assert e.value.unconfirmed == (lost,)
    assert not e.value.is_outage
    assert len(ear.heard()) == 3


@redis_only
def test_what_redis_refuses_is_an_error_and_its_neighbours_arrive(app: Service, ear: Ear, broker_url: str) -> None:
    good = [Message.carrying(app.publish(OrderPlaced()), exchange="", routing_key=ear.name) for _ in range(3)]
    ear.heard()
    place = app.runtime.topology.name_of("taken")
    redis.Redis.from_url(broker_url).set(place, "somebody else's")
    lost = Message("", place, b"[[], {}, {}]", {"id": "1", "argsrepr": "order.placed ORD-9"})

    with pytest.raises(PublishError, match=r"1 of 4 messages, such as 'order.placed ORD-9': .*WRONGTYPE") as e:
        app.publisher.send([*good[:2], lost, good[2]])

    assert e.value.confirmed == tuple(good)
    assert e.value.unconfirmed == (lost,)
    assert not e.value.is_outage
    assert len(ear.heard()) == 3


@redis_only
def test_a_redis_that_has_forgotten_the_scripts_is_told_them_again(app: Service, ear: Ear, broker_url: str) -> None:
    app.publish(OrderPlaced(number=1))

    redis.Redis.from_url(broker_url).script_flush()
    app.publish_many(OrderPlaced(number=number) for number in range(2, 300))

    assert ear.numbers() == list(range(1, 300))


@redis_only
def test_a_batch_is_not_answered_one_by_one(app: Service, broker_url: str, ear: Ear) -> None:
    envelopes = [app.publish(OrderPlaced(number=number)) for number in range(3)]
    client = redis.Redis.from_url(broker_url)
    turns = client.info("stats")["total_reads_processed"]

    app.publisher.announce(envelopes * 100)

    assert client.info("stats")["total_reads_processed"] - turns < 150


@rabbitmq_only
def test_what_the_broker_cannot_store_is_an_error_and_sending_it_again_keeps_its_id(app: Service) -> None:
    ear = Ear(app, arguments={"x-queue-type": "classic", "x-max-length": 2, "x-overflow": "reject-publish"})
    taken = [app.publish(OrderPlaced(number=number)) for number in range(2)]

    with pytest.raises(PublishError, match=r"'order\.placed ORD-1'.*nack") as caught:
        app.publish(OrderPlaced(number=3), subject="ORD-1")

    assert [envelope["id"] for envelope in ear.heard()] == [envelope.id for envelope in taken]
    (unconfirmed,) = caught.value.unconfirmed
    assert not caught.value.is_outage
    app.publisher.announce([unconfirmed])
    assert [envelope["id"] for envelope in ear.heard()] == [unconfirmed.id]
    ear.close()


@rabbitmq_only
def test_an_exchange_that_was_deleted_under_a_publisher_is_made_again(app: Service, ear: Ear) -> None:
    app.publish(OrderPlaced())
    with app.connection_for_write() as connection:
        app.runtime.topology.exchange(connection.channel()).delete()

    app.publish(OrderPlaced())

    # Its bindings went with it; a worker makes them again when it starts.
    assert app.publisher.unheard == {"order.placed": 1}
    again = Ear(app)
    app.publish(OrderPlaced(number=7))
    assert 7 in again.numbers()
    again.close()


@rabbitmq_only
def test_an_exchange_of_another_kind_is_said_in_words(app: Service) -> None:
    with app.connection_for_write() as connection:
        connection.channel().exchange_declare(
            app.runtime.topology.exchange.name, "fanout", durable=True, auto_delete=False
        )

    with pytest.raises(PublishError, match="inequivalent arg 'type' for exchange") as caught:
        app.publish(OrderPlaced())

    assert caught.value.is_outage, "it concerns every event"
    pool = app.publisher._lines
    make, made = pool._make, []
    pool._make = lambda: made.append("line") or make()  # type: ignore[func-returns-value]
    with pytest.raises(PublishError, match="20 of 20 messages"):
        app.publish_many(OrderPlaced() for _ in range(20))
    assert made == ["line"], "and no event is tried alone"


@both
def test_a_message_that_the_client_cannot_write_is_refused_and_no_outage(app: Service, ear: Ear) -> None:
    app.publish(OrderPlaced())

    with pytest.raises(PublishError) as caught:
        app.publisher.send([Message("", ear.name, b"[[], {}, {}]", {"id": object()})])

    assert not caught.value.is_outage


@rabbitmq_only
def test_a_message_that_is_too_large_for_the_broker_is_refused_and_no_outage(app: Service, ear: Ear) -> None:
    app.publish(OrderPlaced())
    error = amqp.PreconditionFailed("message size 9 is larger than configured max size 8", (60, 40))
    line = app.publisher._lines._idle[0]

    assert not line.is_outage(error)


# -- the network ------------------------------------------------------------------------------------------------------


@both
def test_a_silent_broker_is_an_error_within_bounded_time_and_the_next_publish_succeeds(
    far_app: Service, proxy: Proxy, app: Service, ear: Ear
) -> None:
    far_app.publish(OrderPlaced(number=1))

    proxy.mode = "stall"
    seconds, error = seconds_to_fail(lambda: far_app.publish(OrderPlaced(number=2), subject="ORD-2"))
    first_seconds, _ = seconds_to_fail(lambda: far_app.publish(OrderPlaced(number=3)))
    proxy.mode = "ok"
    far_app.publish(OrderPlaced(number=4))

    assert "order.placed ORD-2" in str(error)
    assert seconds < DEADLINE / 2
    assert first_seconds < DEADLINE / 2
    assert {1, 4} <= set(ear.numbers())


@both
def test_a_lost_confirm_is_an_error_and_sending_again_is_one_event_with_one_id(
    far_app: Service, proxy: Proxy, app: Service, ear: Ear
) -> None:
    far_app.publish(OrderPlaced())
    ear.heard()

    proxy.mode = "drop down"
    _, error = seconds_to_fail(lambda: far_app.publish(OrderPlaced(number=2)))
    proxy.mode = "ok"
    far_app.publisher.announce(error.unconfirmed)

    heard = ear.heard()
    assert len(heard) == 2
    assert {envelope["id"] for envelope in heard} == {error.unconfirmed[0].id}


@both
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_connection_that_breaks_in_the_middle_is_replaced(
    direction: Any, far_app: Service, proxy: Proxy, app: Service, ear: Ear
) -> None:
    far_app.publish(OrderPlaced())
    ear.heard()

    assert proxy.cut_midway(direction)
    envelopes = [far_app.publish(OrderPlaced(number=number)) for number in range(20)]

    assert {envelope["id"] for envelope in ear.heard()} == {envelope.id for envelope in envelopes}


@both
def test_a_broker_that_is_away_is_an_error_within_bounded_time(far_app: Service, proxy: Proxy) -> None:
    proxy.stop()

    seconds, error = seconds_to_fail(lambda: far_app.publish_many(OrderPlaced(number=number) for number in range(3)))

    assert seconds < DEADLINE / 2
    assert "3 of 3 messages" in str(error)
    assert len(error.unconfirmed) == 3


# -- an event that nobody hears ---------------------------------------------------------------------------------------


@both
def test_an_event_that_nobody_hears_is_counted_and_said_once(
    app: Service, ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "choreo.broker.publisher"):
        app.publish_many([OrderForgotten(), OrderPlaced(), OrderForgotten()])
        app.publish(OrderForgotten())

    assert app.publisher.unheard == {"order.forgotten": 3}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("nobody listens to order.forgotten yet: no queue is bound to it on ")
    assert app.connection().as_uri() in record.getMessage()
    assert f"(namespace {app.runtime.topology.namespace!r})" in record.getMessage()
    assert len(ear.heard()) == 1


def test_a_plain_script_shows_that_nobody_hears_its_event(redis_url: str) -> None:
    script = (
        "from choreo import Event, Service\n"
        "class OrderForgotten(Event): ...\n"
        f"Service('shop', config=None, broker={redis_url!r}, choreo_namespace='staging').publish(OrderForgotten())"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)

    assert "nobody listens to order.forgotten yet" in done.stderr
    assert f"{urlsplit(redis_url).netloc.rpartition('@')[2]}" in done.stderr
    assert "(namespace 'staging')" in done.stderr


@both
def test_an_event_that_nobody_hears_can_be_an_error(
    make_app: AppMaker, broker_url: str, app: Service, ear: Ear
) -> None:
    strict = make_app(broker_url, choreo_unheard="error")
    heard = strict.publish(OrderPlaced())

    with pytest.raises(PublishError, match=r"nobody listens to order\.forgotten\. Start a service") as caught:
        strict.publish_many([OrderPlaced(), OrderForgotten()])

    assert [envelope.type for envelope in caught.value.confirmed] == [heard.type]
    assert [envelope.type for envelope in caught.value.unconfirmed] == ["order.forgotten"]
    # What a handler announces is committed by then: it is sent.
    strict.publisher.send([strict.publisher.message_for(caught.value.unconfirmed[0])])


@both
def test_an_event_that_nobody_hears_can_be_nothing_to_speak_of(
    make_app: AppMaker, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(broker_url, choreo_unheard="ignore")
    with caplog.at_level(logging.INFO, "choreo.broker.publisher"):
        app.publish(OrderForgotten())

    assert not caplog.records
    assert app.publisher.unheard == {"order.forgotten": 1}


def test_a_mistyped_policy_is_refused(make_app: AppMaker) -> None:
    with pytest.raises(DeclarationError, match="choreo_unheard = 'errors': it takes one of 'ignore', 'log', 'error'"):
        make_app("memory://", choreo_unheard="errors").publish(OrderForgotten())


@both
def test_many_connections_that_broke_while_idle_cost_no_event(
    app: Service, far_app: Service, ear: Ear, proxy: Proxy
) -> None:
    envelope = app.publish(OrderPlaced(number=1))
    with ExitStack() as lines_of_threads:
        for _ in range(8):
            lines_of_threads.enter_context(far_app.publisher._lines.one()).send(
                [Post(far_app.publisher.message_for(envelope))]
            )
    assert len(far_app.publisher._lines._idle) == 8
    ear.heard()

    proxy.cut()
    far_app.publish(OrderPlaced(number=2))

    assert ear.numbers() == [2]


# -- threads, forks, async --------------------------------------------------------------------------------------------


@both
def test_eight_threads_lose_nothing(app: Service, ear: Ear) -> None:
    failures: list[Exception] = []

    def publish(first: int) -> None:
        try:
            for number in range(first, first + 200):
                app.publish(OrderPlaced(number=number))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=[first]) for first in range(0, 1600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    assert ear.numbers() == list(range(1600))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_counts_though_a_thread_of_its_parent_was_counting(make_app: AppMaker) -> None:
    publisher = make_app("memory://").publisher
    with publisher._counting:
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            publisher.note_unheard([Message("e", "order.forgotten", b"")])
            os._exit(publisher.unheard.total())

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@both
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_publishes_on_a_connection_of_its_own(
    far_app: Service, proxy: Proxy, app: Service, ear: Ear
) -> None:
    far_app.publish(OrderPlaced(number=1))
    own = proxy.connections

    children = []
    for number in (2, 3):
        child = os.fork()
        if child == 0:
            try:
                far_app.publish(OrderPlaced(number=number))
                far_app.publisher.close()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    far_app.publish(OrderPlaced(number=4))

    assert statuses == [0, 0]
    assert ear.numbers() == [1, 2, 3, 4]
    # As many per child; had a child disturbed its parent's, the parent would have made another.
    assert proxy.connections == 3 * own


@both
def test_what_coroutines_announce_at_once_is_sent_together(
    app: Service, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    publish = app.publisher._publish
    monkeypatch.setattr(app.publisher, "_publish", lambda some: batches.append(len(some)) or publish(some))

    async def handle_requests() -> list[Envelope]:
        return await asyncio.gather(*(app.apublish(OrderPlaced(number=number)) for number in range(500)))

    envelopes = asyncio.run(handle_requests())

    heard = ear.heard()
    assert sorted(event["data"]["number"] for event in heard) == list(range(500))
    assert {event["id"] for event in heard} == {envelope.id for envelope in envelopes}
    assert batches == [500]


@both
def test_many_events_of_a_coroutine_are_all_there(app: Service, ear: Ear) -> None:
    assert asyncio.run(app.apublish_many(OrderPlaced(number=number) for number in range(1200))) == 1200
    assert ear.numbers() == list(range(1200))


@both
def test_of_what_is_sent_together_each_coroutine_has_its_own_error(app: Service, ear: Ear) -> None:
    app.publisher._when_unheard = Unheard.ERROR

    async def announce() -> list[Any]:
        events = [OrderPlaced(number=1), OrderForgotten(), OrderPlaced(number=2)]
        return await asyncio.gather(*(app.apublish(event) for event in events), return_exceptions=True)

    first, second, third = asyncio.run(announce())

    assert isinstance(second, PublishError)
    assert [event.type for event in second.unconfirmed] == ["order.forgotten"]
    assert {event["id"] for event in ear.heard()} == {first.id, third.id}


@both
def test_a_silent_broker_does_not_stop_an_event_loop(far_app: Service, proxy: Proxy, ear: Ear) -> None:
    async def announce() -> int:
        announcing = asyncio.create_task(far_app.apublish(OrderPlaced()))
        turns = 0
        while not announcing.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(PublishError) as caught:
            await announcing
        assert caught.value.is_outage
        assert unconfirmed(caught.value) == caught.value.unconfirmed
        return turns

    proxy.mode = "stall"
    # Without a connection, and with one.
    assert asyncio.run(announce()) > 10
    proxy.mode = "ok"
    far_app.publish(OrderPlaced(number=1))
    proxy.mode = "stall"
    assert asyncio.run(announce()) > 10


@both
def test_what_a_cancelled_coroutine_may_have_announced_can_be_announced_again_with_its_id(
    far_app: Service, proxy: Proxy, ear: Ear
) -> None:
    far_app.publish(OrderPlaced(number=1))
    ear.heard()

    async def announce() -> list[Envelope]:
        proxy.mode = "drop down"
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(SILENCE / 4):
                await far_app.apublish(OrderPlaced(number=2))
        assert len(unconfirmed(caught.value)) == 1
        proxy.mode = "ok"
        proxy.cut()
        return await far_app.publisher.aannounce(unconfirmed(caught.value))

    (envelope,) = asyncio.run(announce())

    heard = ear.heard()
    assert len(heard) in (2, 3)  # the thread may have tried again as well
    assert {(event["id"], event["data"]["number"]) for event in heard} == {(envelope.id, 2)}


@both
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_coroutines_of_a_forked_child_publish_on_a_connection_of_its_own(app: Service, ear: Ear) -> None:
    asyncio.run(app.apublish(OrderPlaced(number=1)))
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            asyncio.run(app.apublish(OrderPlaced(number=2)))
        except BaseException:
            os._exit(1)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asyncio.run(app.apublish(OrderPlaced(number=3)))
    assert ear.numbers() == [1, 2, 3]


@rabbitmq_only
def test_more_threads_than_connections_take_turns(app: Service, ear: Ear) -> None:
    barrier = threading.Barrier(30)

    def publish(number: int) -> None:
        barrier.wait()
        app.publish(OrderPlaced(number=number))

    threads = [threading.Thread(target=publish, args=[number]) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert eventually(ear.numbers) == list(range(30))
    assert len(app.publisher._lines._idle) <= lines.LINES
