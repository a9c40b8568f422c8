"""Parts of joins that a worker was given together are asked about together, before the first of them is begun."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery.worker import state
from kombu import Consumer, Queue
from redis.exceptions import ConnectionError as Away

from choreo import Service
from choreo.broker import workload
from choreo.broker.redis.packing import redelivered
from choreo.broker.redis.receipt import Receipt
from choreo.delivery.join import JoinDelivery
from choreo.events.ids import named_id, task_id
from choreo.fast.ahead import MOST_AHEAD
from choreo.fast.channel import commits_of
from choreo.fast.commits import Commits, Question
from choreo.fast.decisions import FastDecisions
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Wire
from choreo.store import Arrival, Claim, Verdict
from choreo.store.parts import unit_of
from tests.contract.redis_broker import Corner
from tests.unit.events import OrderConfirmed, OrderRejected, PaymentCharged, envelope
from tests.waiting import DEADLINE, eventually

HANDLER = "shop.ship"
ARRIVAL = Arrival("a", "a", "<a>", {"a": None, "b": None}, at_least=2, within=60)


class Shop:
    """A service with one join, and a worker of it that runs its handlers itself."""

    def __init__(self, url: str, namespace: str, **options: Any) -> None:
        self.corner = Corner(url, "")
        self.app = Service("shop", broker=url, config={"choreo_namespace": namespace}, set_as_current=False)
        self.app.runtime.lane.in_process = True
        self.fired: list[str] = []

        @self.app.join(OrderConfirmed, PaymentCharged, unless=OrderRejected, **options)
        def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
            self.fired.append(confirmed.restaurant_id)

        self.app.finalize()
        self.queue: Queue = self.app.amqp.queues[f"{namespace}.{HANDLER}"]
        self.connection = self.app.connection_for_read()
        # Commits and questions are sent ahead by workers that have an event loop, which delivers in slices.
        self.connection.transport.cycle.hub = object()
        self.channel = self.connection.channel()
        self.channel.basic_qos(0, 64, False)
        self.queue(self.channel).declare()
        self.messages: list[Any] = []
        #: The parts of each order, by its number, when each message was delivered.
        self.known: list[list[list[str]]] = []

    def tell(self, *events: tuple[type, int]) -> None:
        """Put these events about these orders into the queue."""
        self.app.publisher.announce(
            [
                envelope(event(), id=named_id(f"{event.__name__}/{number}/{place}"), subject=f"ORD-{number}")
                for place, (event, number) in enumerate(events)
            ]
        )

    def take(self, count: int) -> list[Any]:
        """Take so many messages, and note what the store knew when each was delivered."""
        consumer = Consumer(self.channel, [self.queue], on_message=self._received, auto_declare=False)
        consumer.consume()
        while len(self.messages) < count:
            self.connection.drain_events(timeout=DEADLINE)
        return self.messages

    def _received(self, message: Any) -> None:
        self.line.settle()
        self.known.append([self.parts(order) for order in range(MOST_AHEAD + 2)])
        self.messages.append(message)

    @property
    def line(self) -> Commits:
        commits = commits_of(self.channel)
        assert commits is not None
        return commits

    def delivery(self, number: int) -> JoinDelivery | None:
        """The delivery of this message, if it was begun ahead."""
        (event,), *_ = self.messages[number].payload
        delivery: JoinDelivery | None = event.prepared
        return delivery

    def live(self, number: int) -> str:
        delivery = self.delivery(number)
        assert delivery is not None
        return delivery.live()

    def parts(self, order: int) -> list[str]:
        waiting = self.app.runtime.store.look(HANDLER, unit_of(f"ORD-{order}"))
        return sorted(waiting.parts) if waiting else []

    def unit(self, order: int, field: str) -> bytes | None:
        """What the store keeps about the claim of this order's join."""
        key = f"choreo:{self.app.runtime.topology.namespace}:{{{HANDLER}}}:unit:{unit_of(f'ORD-{order}')}"
        value: bytes | None = self.corner.redis.hget(key, field)
        return value

    def close(self) -> None:
        self.connection.close()
        self.app.publisher.close()
        self.corner.close()


@pytest.fixture
def shop(redis_url: str, namespace: str) -> Iterator[Shop]:
    shop = Shop(redis_url, namespace)
    yield shop
    shop.close()


BOTH = ["order.confirmed", "payment.charged"]


def test_all_parts_are_there_when_the_first_is_delivered_and_each_finds_its_answer(shop: Shop):
    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2), (PaymentCharged, 2), (PaymentCharged, 1))

    shop.take(4)

    assert shop.known[0][1:3] == [BOTH, BOTH]
    assert [shop.live(0), shop.live(1)] == ["waiting, 1 of its events are here"] * 2
    assert [shop.live(2), shop.live(3)] == ["done", "done"]
    assert shop.fired == ["R-1", "R-1"]
    shop.line.settle()
    assert [shop.parts(1), shop.parts(2)] == [[], []]


def test_a_part_never_overtakes_what_cancels_its_join(shop: Shop):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1), (OrderRejected, 2), (OrderConfirmed, 2), (PaymentCharged, 2))

    shop.take(5)

    assert shop.known[2][1:3] == [BOTH, []], "when the cancellation is delivered"
    assert shop.delivery(2) is None
    assert shop.known[3][2] == BOTH, "what stands behind it is begun ahead when its own turn has come"


def test_two_rounds_of_one_key_that_are_asked_about_together_run_one_after_the_other(redis_url: str, namespace: str):
    shop = Shop(redis_url, namespace, rounds=True)
    shop.tell(*[(OrderConfirmed, 1), (PaymentCharged, 1)] * 2)
    shop.take(4)

    said = [run(shop, message) for message in shop.messages]

    assert said == ["waiting, 1 of its events are here", "done"] * 2
    assert len(shop.fired) == 2
    shop.line.settle()
    assert shop.parts(1) == []
    shop.close()


def test_what_was_delivered_before_is_begun_in_its_turn_and_is_no_duplicate(shop: Shop):
    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2))
    shop.take(2)
    assert shop.live(0).startswith("waiting")
    for message in shop.messages:
        message.requeue()
    shop.messages.clear()

    shop.take(2)

    assert [shop.delivery(0), shop.delivery(1)] == [None, None]
    for message in shop.messages:
        assert run(shop, message).startswith("waiting")
    assert shop.app.runtime.store.tally(HANDLER) == {}


def run(shop: Shop, message: Any) -> str:
    """What Celery does with a delivery."""
    task = shop.app.tasks[HANDLER]
    headers = message.headers | {"properties": message.properties, "called_directly": False}
    task.push_request(args=message.payload[0], kwargs={}, **headers)
    try:
        answer: str = task.run(*message.payload[0])
        return answer
    finally:
        task.pop_request()


def test_celerys_task_goes_on_with_what_was_begun_ahead(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1))
    shop.take(2)
    monkeypatch.setattr(shop.app.runtime.store, "arrive", None)

    assert [run(shop, message) for message in shop.messages] == ["waiting, 1 of its events are here", "done"]


def test_what_cannot_be_read_is_set_aside_and_its_neighbours_are_begun(shop: Shop):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1), (OrderConfirmed, 2), (PaymentCharged, 2))
    queue = f"{shop.queue.name}"
    text = json.loads(shop.corner.redis.lindex(queue, -2))
    text["body"] = "no event"
    shop.corner.redis.lset(queue, -2, json.dumps(text))

    shop.take(3)

    (letter,) = shop.app.runtime.store.letters(HANDLER)
    assert "not JSON" in letter
    assert [shop.parts(1), shop.parts(2)] == [["order.confirmed"], BOTH]


def test_no_more_are_begun_together_than_fit_on_the_line(shop: Shop):
    shop.tell(*((OrderConfirmed, number) for number in range(MOST_AHEAD + 4)))

    shop.take(MOST_AHEAD + 4)

    assert shop.known[0][MOST_AHEAD - 1] == ["order.confirmed"]
    assert shop.known[0][MOST_AHEAD] == []
    assert shop.known[MOST_AHEAD][MOST_AHEAD + 1] == ["order.confirmed"]


def test_who_claims_ahead_of_its_turn_has_not_begun(shop: Shop):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1))
    shop.take(2)

    assert shop.unit(1, "deliveries") is None
    assert shop.unit(1, "inflight"), "it is claimed for as long as its worker lives"
    assert shop.live(1) == "done"


def test_what_an_ending_worker_had_begun_ahead_is_no_duplicate_when_it_comes_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2), (OrderConfirmed, 3))
    # It ends when the first has been delivered, and the other two wait.
    shop.channel.connection._deliver = lambda *_: shop.messages.append(None)
    monkeypatch.setattr(shop.channel, "_deliver_slice", shop.channel.deliver_one)
    shop.take(1)
    assert [shop.parts(number) for number in (1, 2, 3)] == [["order.confirmed"]] * 3
    shop.channel.close()

    back = [json.loads(text) for text in shop.corner.redis.lrange(shop.queue.name, 0, -1)]

    assert len(back) == 3
    assert all(text["properties"]["delivery_info"]["redelivered"] for text in back)


def test_an_answer_that_was_lost_with_the_connection_is_asked_for_again(shop: Shop):
    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2))
    shop._received = shop.messages.append  # type: ignore[method-assign]
    shop.take(2)
    eventually(lambda: shop.parts(2))
    shop.line._wire.drop()

    assert [shop.live(0), shop.live(1)] == ["waiting, 1 of its events are here"] * 2
    assert shop.app.runtime.store.tally(HANDLER) == {}, "it is no duplicate"


def test_a_connection_that_breaks_between_a_commit_that_waits_and_an_answer_confuses_nobody(
    shop: Shop, unhurried: None, caplog: pytest.LogCaptureFixture
):
    shop.app.runtime.store.arrive(Claim(HANDLER, "loads the script", "t"), ARRIVAL)
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1), (OrderConfirmed, 2), (OrderConfirmed, 3), (PaymentCharged, 3))
    shop._received = shop.messages.append  # type: ignore[method-assign]
    shop.take(5)
    shop.line._more = lambda: True
    assert shop.live(0).startswith("waiting")
    assert shop.live(1) == "done"
    assert len(shop.line._unsent) == 1

    shop.line._wire.drop()

    assert shop.live(2).startswith("waiting")
    assert shop.live(4) == "done"
    shop.line.settle()
    assert [shop.parts(1), shop.parts(2), shop.parts(3)] == [[], ["order.confirmed"], []]
    assert shop.line._wire._owed == 0
    assert "too late" not in caplog.text


def test_a_question_that_never_reached_the_store_is_asked_in_its_turn(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise Away("the connection broke")

    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2))
    monkeypatch.setattr(Wire, "push", broken)
    shop.take(2)
    assert shop.parts(1) == []

    assert shop.live(0) == "waiting, 1 of its events are here"
    assert [shop.parts(1), shop.parts(2)] == [["order.confirmed"], []]


@pytest.mark.parametrize("trouble", ["closed", "refused"])
def test_without_an_answer_the_store_is_asked_in_its_turn(shop: Shop, trouble: str, monkeypatch: pytest.MonkeyPatch):
    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2))
    shop.take(2)
    question = Question(Script.load("store/arrive"), ["k"], ["nonsense"])
    if trouble == "closed":
        shop.line.close()
        assert not shop.line.ask_ahead(question)
    else:
        assert shop.line.ask_ahead(question)
    assert shop.line.answer(question) is None

    delivery = shop.delivery(1)
    assert delivery is not None
    monkeypatch.setattr(shop.line, "answer", lambda _: None)
    assert delivery.begin().verdict is Verdict.WAIT
    assert shop.app.runtime.store.tally(HANDLER) == {}, "it is no duplicate"


@pytest.mark.parametrize("reason", ["long ago", "stopping"])
def test_what_was_claimed_is_asked_about_again_where_it_may_have_been_lost(
    shop: Shop, reason: str, monkeypatch: pytest.MonkeyPatch
):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1))
    shop.take(2)
    delivery, taken = shop.delivery(1), Receipt.of(shop.messages[1].properties)
    assert delivery is not None
    assert taken is not None
    if reason == "long ago":
        monkeypatch.setattr("choreo.broker.redis.receipt.machine_time", lambda: taken.certain_until + 1)
    else:
        monkeypatch.setattr(state, "should_stop", 0)
    called: list[str] = []
    for owner, name in (
        (shop.line, "ask"),
        (shop.line, "send"),
        (shop.app.runtime.store, "arrive"),
        (shop.app.runtime.store, "commit"),
    ):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, name=name, call=call: called.append(name) or call(*args))

    assert delivery.live() == "done"
    assert called == {"long ago": ["ask", "send"], "stopping": ["arrive", "commit"]}[reason]


@pytest.mark.parametrize("again", [False, True])
def test_what_stands_behind_a_cancellation_is_not_asked_about_while_that_waits_for_a_thread(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, again: bool
):
    shop.tell((OrderRejected, 1), (OrderConfirmed, 1), (OrderRejected, 2), (OrderConfirmed, 2), (PaymentCharged, 2))
    if again:
        for place in (-1, -3):
            text = shop.corner.redis.lindex(shop.queue.name, place)
            shop.corner.redis.lset(shop.queue.name, place, redelivered(text, counted=False))
    # What was delivered is in the hands of a worker whose threads are all busy.
    monkeypatch.setattr(workload, "has", lambda tags: bool(set(tags) & {str(m.delivery_tag) for m in shop.messages}))

    shop.take(5)

    assert shop.known[-1][1:3] == [[], []]
    assert [shop.delivery(number) for number in range(5)] == [None] * 5
    # Once they are done with it, what comes next is begun together again.
    monkeypatch.setattr(workload, "has", lambda _: False)
    shop.messages.clear()
    shop.known.clear()
    shop.tell((OrderConfirmed, 3), (PaymentCharged, 3))
    shop.take(2)
    assert shop.known[0][3] == BOTH


def test_a_lone_part_is_begun_ahead_as_well_so_that_a_thread_need_not_ask(shop: Shop):
    shop.tell((OrderConfirmed, 1))

    shop.take(1)

    assert shop.live(0).startswith("waiting")


def test_an_error_in_beginning_together_leaves_each_to_its_turn(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    def stumble(*_: Any) -> None:
        raise RuntimeError("nobody thought of that")

    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2))
    monkeypatch.setattr(FastDecisions, "ask_ahead", stumble)

    shop.take(2)

    assert [run(shop, message) for message in shop.messages] == ["waiting, 1 of its events are here"] * 2


def test_a_revoked_part_is_not_begun_ahead(shop: Shop):
    shop.tell((OrderConfirmed, 1), (OrderConfirmed, 2))
    revoked = task_id(named_id("OrderConfirmed/1/0"), HANDLER)
    state.revoked.add(revoked)
    try:
        shop.take(2)
    finally:
        state.revoked.discard(revoked)

    assert [shop.parts(1), shop.parts(2)] == [[], ["order.confirmed"]]


def test_scripts_that_redis_forgot_are_loaded_again_and_every_answer_finds_its_question(
    shop: Shop, unhurried: None, monkeypatch: pytest.MonkeyPatch
):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1), (OrderConfirmed, 2), (OrderConfirmed, 3), (PaymentCharged, 3))
    shop._received = shop.messages.append  # type: ignore[method-assign]
    ask, asked = Commits.ask_ahead, list[Question]()

    def forget_before_the_third(line: Commits, question: Question) -> bool:
        asked.append(question)
        if len(asked) == 3:
            line.flush()
            eventually(lambda: shop.parts(1) == BOTH)
            shop.corner.redis.script_flush()
        return ask(line, question)

    monkeypatch.setattr(Commits, "ask_ahead", forget_before_the_third)
    dropped: list[Wire] = []
    monkeypatch.setattr(Wire, "drop", lambda wire: dropped.append(wire))
    shop.take(5)
    shop.line._more = lambda: True

    answers = [shop.live(number) for number in range(5)]

    assert [answer.partition(",")[0] for answer in answers] == ["waiting", "done", "waiting", "waiting", "done"]
    shop.line.settle()
    assert shop.line._wire._owed == 0
    assert dropped == []
    assert [shop.parts(1), shop.parts(2), shop.parts(3)] == [[], ["order.confirmed"], []]


def test_a_question_that_comes_after_its_copy_went_back_keeps_nobody_out(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1))
    # Another thread has the line, and sends what waits only later.
    monkeypatch.setattr(Commits, "flush", lambda *_, **__: None)
    shop._received = shop.messages.append  # type: ignore[method-assign]
    shop.take(2)
    for message in shop.messages:
        message.requeue()
    shop.messages.clear()
    monkeypatch.undo()
    shop.line.settle()

    shop.take(2)

    assert "done" in [run(shop, message) for message in shop.messages]


def test_what_was_begun_before_does_not_count_as_begun_once_more_before_its_turn(shop: Shop):
    shop.tell((OrderConfirmed, 1), (PaymentCharged, 1))
    shop.take(2)
    # Its worker was busy with it when it died.
    shop.channel.give_back([str(message.delivery_tag) for message in shop.messages], counted=True)
    shop.corner.redis.delete(shop.queue.name)
    died = str(shop.messages[1].delivery_tag).encode()
    shop.messages.clear()

    shop.tell((PaymentCharged, 1))
    shop.take(1)

    assert shop.unit(1, "token") == died, "who claims it knows how often it was begun"
    delivery = shop.delivery(0)
    assert delivery is not None
    assert delivery.begin().deliveries == 2
