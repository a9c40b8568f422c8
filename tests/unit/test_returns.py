"""No delivery comes back for ever: its returns are counted, and after a limit it is set aside."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.utils.imports import symbol_by_name
from celery.worker.request import Request

from choreo import Reason, Terms
from choreo.broker.incoming import DELIVERY_COUNT, UNCOUNTED
from choreo.broker.queue import DeadLetterQueue, GuardedQueue, HandlerQueue
from choreo.broker.task_queue import TaskQueue
from choreo.errors import EnvelopeError, StoreError, UnansweredError
from choreo.events.message import JSON
from choreo.worker.beginnings import CountedRequest, count_beginnings
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, envelope, identity_of
from tests.unit.stage import Stage, service
from tests.unit.test_queue import FLAVOURS, GOOD, NOTICE, ORDER, Channel, Rig, arrived_at_celery
from tests.unit.test_task_queue import HEADERS
from tests.unit.test_unsettled import raising, told_stage

CALLED = b'[[1], {"a": 2}, {"callbacks": null}]'
QUEUES: dict[str, tuple[GuardedQueue, dict[str, Any], bytes]] = {
    "handler": (HandlerQueue("q", handler="payment.charge"), dict(GOOD.headers), GOOD.body),
    "letters": (DeadLetterQueue("d", handler=NOTICE["task"], prefix=""), NOTICE, b'[["a1b2c3"], {}, {}]'),
    "tasks": (
        TaskQueue("t", handler="payment", tasks=lambda: {"payment.plain"}, accept=lambda: {JSON}),
        HEADERS,
        CALLED,
    ),
}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("worker.outage", "broker.queue"):
        monkeypatch.setattr(f"choreo.{room}.STORE_PAUSE", 0)
    monkeypatch.setattr("choreo.worker.outage.MOST_SECONDS", 0)


def returned(flavour: str, name: str, count: Any) -> tuple[GuardedQueue, Any]:
    queue, headers, body = QUEUES[name]
    message = FLAVOURS[flavour](Channel(), body, headers | {DELIVERY_COUNT: count}, JSON, "utf-8")
    return queue, message


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", QUEUES)
class TestCountedByTheBroker:
    def test_a_delivery_that_comes_back_too_often_is_set_aside(self, flavour: str, name: str) -> None:
        queue, message = returned(flavour, name, QUEUES[name][0].most_returns + 1)

        with pytest.raises(UnansweredError, match=r"came back .* times") as raised:
            queue.prepare(message)

        assert (raised.value.envelope == ORDER) == (name == "handler")

    def test_until_then_it_is_handed_on(self, flavour: str, name: str) -> None:
        queue, message = returned(flavour, name, queue_limit := QUEUES[name][0].most_returns)
        assert queue_limit >= 20

        queue.prepare(message)

    @pytest.mark.parametrize("count", [None, "many", -5, True, [], 1.5])
    def test_a_count_that_is_none_changes_nothing(self, flavour: str, name: str, count: Any) -> None:
        queue, message = returned(flavour, name, count)

        queue.prepare(message)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_notice_that_came_back_too_often_is_acked_and_makes_no_dead_letter(
    flavour: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(flavour, DeadLetterQueue, NOTICE["task"])

    rig.deliver(b'[["a1b2c3"], {}, {}]', headers=NOTICE | {DELIVERY_COUNT: 21})

    assert not rig.parked
    assert rig.channel.answers == [("ack", "t-1")]
    assert "drops a notice: it came back 21 times" in caplog.text


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_replay_of_what_came_back_too_often_is_counted_anew(flavour: str) -> None:
    rig = Rig(flavour)

    rig.deliver(headers=GOOD.headers | {DELIVERY_COUNT: 1000})

    ((_, message, error),) = rig.parked
    assert isinstance(error, UnansweredError)
    assert message.headers == GOOD.headers


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_delivery_that_cannot_be_kept_returns_without_a_failed_attempt(flavour: str) -> None:
    rig, requeued = Rig(flavour), []
    rig.store_is_down = True
    rig.channel.basic_reject = lambda _, requeue: requeued.append(requeue)

    rig.deliver(b"garbage")

    assert requeued == [UNCOUNTED]


class Calls:
    """A classic queue of RabbitMQ with calls of an ordinary task, and how often each came back."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.queue = TaskQueue("t", handler="payment", tasks=lambda: {"payment.plain"}, accept=lambda: {JSON})
        self.queue.returned = self.count
        self.app = service("payment")

        @self.app.task(name="payment.plain", acks_late=True)
        def plain() -> None: ...

        count_beginnings(self.app)

    def count(self, handler: str, delivery: str, by: int = 1) -> int:
        self.counts[f"{handler} {delivery}"] += by
        return self.counts[f"{handler} {delivery}"]

    def read(self, redelivered: bool = True, **headers: Any) -> Any:
        message = FLAVOURS["rabbitmq"](Channel(), CALLED, HEADERS | headers, JSON, "utf-8")
        message.delivery_info["redelivered"] = redelivered
        self.queue.prepare(message)
        return message

    def wait(self, **headers: Any) -> Any:
        """Read a call, and let it wait for its turn or its time, as Celery does."""
        task = self.app.tasks["payment.plain"]
        return task.Request(arrived_at_celery(self.read(**headers)), app=self.app, task=task)

    def begin(self, **headers: Any) -> None:
        self.wait(**headers).on_accepted(4711, 0.0)


def test_a_classic_queue_of_rabbitmq_counts_in_the_store_what_had_begun() -> None:
    calls = Calls()
    most = calls.queue.most_returns
    calls.begin(redelivered=False)
    assert not calls.counts

    for _ in range(most):
        calls.begin()
        calls.begin(id="t-2", **{DELIVERY_COUNT: 1})
    with pytest.raises(UnansweredError, match=f"came back {most + 1} times"):
        calls.read()

    calls.queue.returned = raising(StoreError("no store"))
    calls.begin()


def test_a_call_that_waits_for_its_turn_or_its_time_may_come_back_any_number_of_times() -> None:
    calls = Calls()
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    for _ in range(calls.queue.most_returns + 5):
        calls.wait()
        calls.wait(id="t-2", eta=soon)

    assert set(calls.counts.values()) == {0}


def test_a_call_whose_reading_ends_the_worker_is_counted() -> None:
    calls = Calls()

    for _ in range(calls.queue.most_returns):
        calls.read()
    with pytest.raises(UnansweredError):
        calls.read()


def test_a_request_class_of_the_users_is_extended() -> None:
    class Own(Request):
        def on_accepted(self, pid: int, time_accepted: float) -> None:
            accepted.append((pid, time_accepted))

    calls, accepted = Calls(), list[tuple[int, float]]()
    task = calls.app.tasks["payment.plain"]
    task.Request = Own

    for _ in range(2):  # once per connection
        count_beginnings(calls.app)
    calls.begin()

    assert (accepted, list(calls.counts.values())) == ([(4711, 0.0)], [1])
    assert issubclass(task.Request, Own)
    assert not issubclass(symbol_by_name(calls.app.tasks["payment.dead_letters"].Request), CountedRequest)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    "headers",
    [
        {"timelimit": [-1, None]},
        {"timelimit": [None, -0.5]},
        {"timelimit": [float("nan"), None]},
        {"timelimit": [float("inf"), None]},
        {"id": "t-\ud800"},
        {"root_id": "\udfff"},
    ],
)
def test_a_call_that_would_kill_each_child_or_cannot_be_written_is_set_aside(
    flavour: str, headers: dict[str, Any]
) -> None:
    with pytest.raises(EnvelopeError, match=f"{next(iter(headers))}.* is "):
        QUEUES["tasks"][0].prepare(FLAVOURS[flavour](Channel(), CALLED, HEADERS | headers, JSON, "utf-8"))


# -- what a worker begins, and cannot settle ----------------------------------------------------------------------


REFUSED = StoreError("WRONGTYPE", is_outage=False)


def results(stage: Stage, count: int, event: Any = None) -> list[str]:
    event = event or envelope(OrderPlaced(customer_id="alice", total_cents=5), id="e-1")
    states = []
    for _ in range(count):
        states.append(stage.deliver(event).state)
        stage.wait(60)  # until the lease of this attempt has run out
    return states


def stage_of(**options: Any) -> Stage:
    app = service("payment", terms=Terms(max_deliveries=3), **options)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    return Stage(app)


@pytest.mark.parametrize("error", [REFUSED, OverflowError("unforeseen"), UnicodeEncodeError("utf-8", "x", 0, 1, "y")])
@pytest.mark.parametrize("step", ["begin", "commit"])
def test_an_event_that_cannot_be_settled_is_a_dead_letter_after_some_deliveries(
    monkeypatch: pytest.MonkeyPatch, error: Exception, step: str
) -> None:
    stage = stage_of()
    monkeypatch.setattr(stage.store, step, raising(error))

    assert results(stage, 3) == ["REJECTED", "REJECTED", "FAILURE"]

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.POISON
    assert letter.handler == "payment.charge"
    assert "could not be settled" in letter.error
    assert letter.unit == identity_of("e-1")
    assert [event.id for event in letter.envelopes] == ["e-1"]


def test_an_event_whose_key_nobody_can_make_is_a_dead_letter_after_some_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = stage_of()
    monkeypatch.setattr("choreo.worker.handler.delivery_to", raising(TypeError("unhashable")))

    assert results(stage, 3) == ["REJECTED", "REJECTED", "FAILURE"]
    assert [letter.reason for letter in stage.dead_letters] == [Reason.POISON]


def test_a_store_that_is_away_is_no_reason_for_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of()
    monkeypatch.setattr(stage.store, "begin", raising(StoreError("no store")))

    assert results(stage, 10) == ["REJECTED"] * 10
    assert stage.dead_letters == []


def test_a_part_of_a_join_that_cannot_be_settled_is_a_dead_letter_of_its_join(monkeypatch: pytest.MonkeyPatch) -> None:
    app = service("driver", terms=Terms(max_deliveries=3))

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    stage = Stage(app)
    monkeypatch.setattr(stage.store, "arrive", raising(REFUSED))

    assert results(stage, 3, envelope(OrderConfirmed(), subject="ORD-1"))[-1] == "FAILURE"

    (letter,) = stage.dead_letters
    assert letter.unit == "join:ORD-1"


def test_a_handler_that_can_keep_no_letter_leaves_it_to_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of()
    add_letter = stage.store.add_letter

    def refuse(handler: str, *rest: Any) -> None:
        if handler == "payment.charge":
            raise REFUSED
        add_letter(handler, *rest)

    monkeypatch.setattr(stage.store, "add_letter", refuse)
    monkeypatch.setattr(stage.store, "begin", raising(REFUSED))
    stage.store.register(["payment"])

    assert results(stage, 3)[-1] == "FAILURE"

    (letter,) = stage.app.dead_letters
    assert (letter.handler, letter.message.routing_key) == ("payment", "payment.charge")
    assert "payment.charge can keep none" in letter.error
    assert not letter.envelopes


def test_a_notice_that_the_store_refuses_comes_back_some_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, task = told_stage(lambda _: None)
    (letter,) = stage.dead_letters
    monkeypatch.setattr(stage.store, "begin", raising(REFUSED))

    assert [task.apply(args=[letter.id]).state for _ in range(2)] == ["REJECTED", "FAILURE"]
    assert stage.dead_letters == [letter]
