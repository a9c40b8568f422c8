"""What comes from choreo's Redis transport takes the shortest way to its handler, and nobody can tell."""

import json
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from celery import _state, current_task, signals
from celery.app.trace import build_tracer, reset_worker_optimizations, setup_worker_optimizations
from celery.concurrency.solo import TaskPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import WorkerShutdown
from celery.worker import state
from celery.worker.strategy import default
from kombu import Consumer

from choreo import Envelope, PermanentFailure, Reason, Retry, RetryLater, Service
from choreo.broker.queue import HandlerQueue
from choreo.broker.redis.hooks import NO_HOOKS
from choreo.declare.context import current
from choreo.delivery.clock import Clock
from choreo.delivery.delivery import Delivery
from choreo.events.ids import task_id
from choreo.events.message import MOST_NESTED, Message, compact
from choreo.fast.channel import commits_of
from choreo.fast.strategy import strategy
from choreo.worker.worker_events import ServiceDispatcher
from tests.contract.redis_broker import Corner
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, envelope, identity_of
from tests.waiting import DEADLINE, eventually

HANDLER, JOIN = "shop.charge", "shop.ship"
ORDER = OrderPlaced(customer_id="Zoë", total_cents=500)


NESTED: list[Any] = []
for _ in range(MOST_NESTED):
    NESTED = [NESTED]
#: More than anybody could be sure to write again.
DEEP = compact([[envelope(ORDER, id="e-1").to_wire() | {"data": {"note": NESTED}}], {}, {}]).encode()


class WorkersConsumer(SimpleNamespace):
    """Of Celery's consumer, what a strategy asks for."""

    __hash__ = object.__hash__


class Dispatcher(ServiceDispatcher):
    """Keeps worker events as they are told."""

    def __init__(self, told: list[tuple[str, dict[str, Any]]]) -> None:
        self.told = told
        self.enabled, self.buffer_group = True, frozenset()

    def send(self, type: str, **facts: Any) -> None:  # noqa: A002
        self.told.append((type, {name: value for name, value in facts.items() if name != "timestamp"}))


class Worker:
    """A worker of the solo pool, of a service with a handler and a join, on a real channel."""

    def __init__(self, url: str, namespace: str, way: str, behave: Callable[[], Any] = lambda: None) -> None:
        self.corner = Corner(url, "")
        # Of workers that another test has killed.
        self.held_before = set(self.corner.redis.keys("_choreo.inflight.*"))
        settings = {"choreo_namespace": namespace, "choreo_fast_lane": way != "lane off"}
        self.app = Service("shop", broker=url, config=settings, set_as_current=False)
        if self.app.runtime.lane:
            self.app.runtime.lane.in_process = True
        self.way = way

        @self.app.on(OrderPlaced, retry=Retry(times=1))
        def charge(order: OrderPlaced) -> PaymentCharged | None:
            return behave()

        @self.app.join(OrderConfirmed, PaymentCharged)
        def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
            behave()

        self.app.finalize()
        self.app.runtime.introduce()
        setup_worker_optimizations(self.app, "shop@here")
        self.connection = self.app.connection_for_read()
        self.connection.transport.cycle.hub = object()
        self.channel = self.connection.channel()
        self.channel.basic_qos(0, 64, False)
        self.queues = [self.app.amqp.queues[self.app.runtime.topology.name_of(name)] for name in (HANDLER, JOIN)]
        for queue in self.queues:
            queue(self.channel).declare()
        self.told: list[tuple[str, dict[str, Any]]] = []
        #: How many deliveries took the shortcut, and how many did not.
        self.short = self.long = 0
        self.consumer = self._consumer()
        self.strategies = {name: self._strategy(name) for name in (HANDLER, JOIN)}

    def _consumer(self) -> WorkersConsumer:
        pool = TaskPool(1, app=self.app)
        events = Dispatcher(self.told)
        return WorkersConsumer(
            hostname="shop@here",
            connection_errors=(),
            connection=self.connection,
            event_dispatcher=events,
            timer=SimpleNamespace(call_at=None),
            apply_eta_task=None,
            disable_rate_limits=False,
            task_buckets=defaultdict(lambda: None),
            on_task_request=lambda request: request.execute_using_pool(pool),
            on_task_message=set(),
            _limit_task=None,
            _limit_post_eta=None,
            _maximum_prefetch_restored=True,
            controller=SimpleNamespace(state=state),
            pool=pool,
        )

    def _strategy(self, name: str) -> Any:
        task = self.app.tasks[name]
        task.__trace__ = build_tracer(name, task, app=self.app, hostname="shop@here")
        if self.way != "shortcut":
            return default(task, self.app, self.consumer)
        way, shortcut = strategy(task, self.app, self.consumer), self.app.runtime.lane.shortcuts[name]

        def counted(channel: Any, taken: Any) -> bool:
            done = shortcut(channel, taken)
            self.short += done
            return done

        self.app.runtime.lane.shortcuts[name] = counted
        return way

    def tell(self, *envelopes: Envelope) -> None:
        self.app.publisher.announce(envelopes)

    def run(self) -> None:
        """Handle what is in the queues, and settle it."""
        with Consumer(self.channel, self.queues, on_message=self._received, auto_declare=False):
            assert (self.channel.hooks is NO_HOOKS) is (self.way == "lane off")
            while any(self.left(queue.name) for queue in self.queues):
                self.connection.drain_events(timeout=DEADLINE)
                if commits := commits_of(self.channel):
                    commits.settle()
        self.channel.flush_acks()

    def left(self, queue: str) -> int:
        """How many messages were not handled yet."""
        count: int = self.corner.redis.llen(queue)
        is_coming = self.channel._taking is not None and not self.channel._waiting
        return count + len(self.channel._arrived) + is_coming

    def _received(self, message: Any) -> None:
        self.long += 1
        handle = self.strategies[message.headers["task"]]
        handle(message, None, message.ack_log_error, message.reject_log_error, self.consumer.on_task_message)

    def undone(self) -> list[str]:
        """What is queued or in flight."""
        left = [queue.name for queue in self.queues if self.corner.redis.exists(queue.name)]
        held = set(self.corner.redis.keys(self.channel.keys.all_inflight)) - self.held_before
        return left + [key.decode() for key in held]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def close(self) -> None:
        self.connection.close()
        self.app.publisher.close()
        self.corner.close()


Start = Callable[..., Worker]


@pytest.fixture(params=["shortcut", "celery", "lane off"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    for signal in (signals.task_received, signals.task_prerun, signals.task_postrun, signals.task_success):
        monkeypatch.setattr(signal, "receivers", [])  # other tests may have some
    before = _state._tls.current_app, _state.default_app
    workers: list[Worker] = []

    def start(way: str = "shortcut", behave: Callable[[], Any] = lambda: None) -> Worker:
        workers.append(Worker(redis_url, namespace, way, behave))
        return workers[-1]

    with caplog.at_level(logging.WARNING, "celery"):
        state.reset_state()
        yield start
        state.reset_state()
    for worker in workers:
        worker.close()
    reset_worker_optimizations()
    _state._tls.current_app, _state.default_app = before


@pytest.mark.parametrize("when", ["while it runs", "when it has ended"])
def test_a_run_whose_request_somebody_looks_at_is_told_of_once_and_in_order(start: Start, way: str, when: str):
    requests: list[Any] = []

    def look() -> None:
        requests.append(worker.app.tasks[HANDLER].request_stack.top)
        if when == "while it runs":
            assert requests[-1].delivery_info["routing_key"] == worker.queues[0].name
            worker.consumer.event_dispatcher.send("task-noted", uuid=requests[-1].id)

    worker = start(way, look)
    worker.tell(envelope(ORDER, id="e-1"), envelope(ORDER, id="e-2"))

    worker.run()
    for request in requests:
        assert request.delivery_info["routing_key"] == worker.queues[0].name

    noted = ["task-noted"] if when == "while it runs" else []
    assert worker.kinds() == ["task-received", "task-started", *noted, "task-succeeded"] * 2
    assert worker.short == (2 if way == "shortcut" else 0)


def test_a_success_is_told_counted_and_acked(start: Start, way: str):
    worker = start(way)
    worker.tell(envelope(ORDER, id="e-1"), envelope(ORDER, id="e-2"))

    worker.run()

    assert worker.short == (2 if way == "shortcut" else 0)
    assert worker.kinds() == ["task-received", "task-started", "task-succeeded"] * 2
    received, started, succeeded = (facts for _, facts in worker.told[:3])
    assert started == {"uuid": task_id(identity_of("e-1"), HANDLER)}
    assert received == started | {
        "name": HANDLER,
        "args": "order.placed ORD-1",
        "kwargs": "",
        "root_id": task_id(identity_of("e-1"), HANDLER),
        "parent_id": None,
        "retries": 0,
        "eta": None,
        "expires": None,
    }
    assert succeeded.pop("runtime") >= 0
    assert succeeded == started | {"result": "'done'"}
    assert state.total_count == {HANDLER: 2}
    assert state.all_total_count == [2]
    assert not state.requests
    assert not state.reserved_requests
    assert not state.active_requests
    assert worker.undone() == []


def test_what_a_handler_announces_leaves_with_its_commit(start: Start, way: str):
    worker = start(way, lambda: PaymentCharged(amount_cents=500))
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    (join,) = worker.app.joins.find("ORD-1")
    assert [part.envelope.type for part in join.arrived] == ["payment.charged"]


def test_a_run_is_the_child_of_the_run_that_announced_its_event(start: Start, way: str):
    worker = start(way, lambda: PaymentCharged(amount_cents=500))
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    received = {facts["name"]: facts for kind, facts in worker.told if kind == "task-received"}
    charge = task_id(identity_of("e-1"), HANDLER)
    assert (received[HANDLER]["root_id"], received[HANDLER]["parent_id"]) == (charge, None)
    assert (received[JOIN]["root_id"], received[JOIN]["parent_id"]) == (charge, charge)
    assert worker.short == (2 if way == "shortcut" else 0), "its request was not made for that"


def test_a_retry_is_the_child_of_the_same_run(start: Start, way: str):
    def fail() -> None:
        raise RetryLater(0)

    worker = start(way, fail)
    message = worker.app.publisher.message_for(envelope(ORDER, id="e-1"))
    message.headers.update(root_id="t-0", parent_id="t-1")
    worker.app.publisher.send([message])

    worker.run()

    ((_, retry),) = eventually(lambda: worker.app.runtime.store.due(HANDLER, 10, 60.0))
    assert retry is not None
    assert (retry.headers["root_id"], retry.headers["parent_id"]) == ("t-0", "t-1")


def test_a_handler_finds_the_request_and_the_worker_knows_of_it(start: Start, way: str):
    seen: list[dict[str, Any]] = []

    def look() -> None:
        (request,) = state.active_requests
        assert state.requests[request.id] is request
        assert list(state.reserved_requests) == [request]
        short = current_task.request.id
        seen.append({"short": short, **vars(current_task.request), **request.info()})

    worker = start(way, look)
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    (facts,) = seen
    assert worker.short == (way == "shortcut")
    assert facts["short"] == facts["id"] == task_id(identity_of("e-1"), HANDLER)
    assert facts["task"] == facts["type"] == HANDLER
    assert facts["correlation_id"] is None or isinstance(facts["correlation_id"], str)
    assert (facts["root_id"], facts["parent_id"], facts["retries"]) == (facts["id"], None, 0)
    assert facts["delivery_info"]["routing_key"] == worker.queues[0].name
    assert facts["hostname"] == "shop@here"
    assert facts["is_eager"] is False
    assert facts.get("choreo_commits") is commits_of(worker.channel)
    assert "Zoë" in facts["args"][0]
    assert facts["acknowledged"] is False
    assert facts["time_start"] > 0
    assert facts["worker_pid"] > 0
    assert not current_task


@pytest.mark.parametrize(
    ("error", "last"), [(OSError("down"), "task-retried"), (PermanentFailure("refused"), "task-failed")]
)
def test_a_failure_is_told_and_settled(start: Start, way: str, error: Exception, last: str):
    def fail() -> None:
        raise error

    worker = start(way, fail)
    heard: list[Any] = []

    def hear(**facts: Any) -> None:
        assert (
            [request.id for request in state.active_requests]
            == list(state.requests)
            == [task_id(identity_of("e-1"), HANDLER)]
        )
        heard.append(facts["sender"].name)

    for signal in (signals.task_retry, signals.task_failure):
        signal.connect(hear, weak=False)
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    for signal in (signals.task_retry, signals.task_failure):
        signal.disconnect(hear)
    assert worker.short == (way == "shortcut")
    assert worker.kinds() == ["task-received", "task-started", last]
    assert str(error) in worker.told[-1][1]["exception"]
    assert heard == [HANDLER]
    assert worker.undone() == []
    assert not state.requests
    assert not state.active_requests
    assert worker.channel.qos.can_consume_max_estimate() == 64
    assert worker.app.runtime.store.backlog(HANDLER).total == (last == "task-retried")
    assert [letter.reason for letter in worker.app.dead_letters] == ([] if last == "task-retried" else [Reason.REFUSED])


def told_of_runs(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of runs: the level, and the words up to the first duration or error."""
    loggers = ("choreo.runs", "choreo.fast.decisions", "choreo.delivery.notice")
    records = [record for record in caplog.records if record.name in loggers]
    return [re.split(" in |, its", f"{record.levelname} {record.getMessage()}")[0] for record in records]


def test_at_info_each_run_is_one_line_and_still_takes_the_shortcut(
    start: Start, way: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO), caplog.at_level(logging.INFO, "celery"):
        worker = start(way)
        worker.tell(envelope(ORDER, id="e-1"), envelope(ORDER, id="e-2", subject="ORD-2"))
        worker.run()

    assert told_of_runs(caplog) == [f"INFO shop.charge(order.placed ORD-{number}): done" for number in (1, 2)]
    assert worker.short == (2 if way == "shortcut" else 0)


def test_a_commit_that_is_refused_after_its_line_has_a_second_line(start: Start, caplog: pytest.LogCaptureFixture):
    forgets = iter([True])

    def forget() -> None:
        if next(forgets, False):
            keys = list(worker.corner.redis.scan_iter(f"choreo:{worker.app.runtime.topology.namespace}:*shop.charge*"))
            worker.corner.redis.delete(*keys)

    worker = start("shortcut", forget)
    with caplog.at_level(logging.INFO):
        worker.tell(envelope(ORDER, id="e-1"))
        worker.run()
        eventually(lambda: (worker.run(), len(told_of_runs(caplog)) == 3)[1])

    assert told_of_runs(caplog) == [
        "INFO shop.charge(order.placed ORD-1): done",
        "ERROR shop.charge(order.placed ORD-1) is not done after all",
        "INFO shop.charge(order.placed ORD-1): done",
    ]


def test_a_copy_that_could_not_be_settled_goes_back(start: Start, way: str, monkeypatch: pytest.MonkeyPatch):
    worker = start(way)
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    broken = True

    def begin(self: Any) -> Any:
        nonlocal broken
        if broken:
            broken = False
            raise ZeroDivisionError("a defect of choreo")
        return began(self)

    began = Delivery.begin
    monkeypatch.setattr(Delivery, "begin", begin)
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    assert "task-succeeded" in worker.kinds()
    assert worker.kinds().count("task-started") == 2
    assert worker.short == (way == "shortcut"), "what came back takes the usual way"
    assert worker.undone() == []


def test_a_stop_in_the_middle_of_a_handler_leaves_its_event(start: Start, way: str, monkeypatch: pytest.MonkeyPatch):
    def stop() -> None:
        monkeypatch.setattr(state, "should_stop", 0)
        raise WorkerShutdown(0)

    worker = start(way, stop)
    worker.tell(envelope(ORDER, id="e-1"))

    with pytest.raises(WorkerShutdown):
        worker.run()

    assert "task-succeeded" not in worker.kinds()
    worker.connection.close()
    assert worker.undone() == [worker.queues[0].name]


def test_parts_of_a_join_are_begun_together_and_fire_once(start: Start, way: str, monkeypatch: pytest.MonkeyPatch):
    fired: list[str] = []
    worker = start(way, lambda: fired.append(current().subject))
    if way != "lane off":
        monkeypatch.setattr(worker.app.runtime.store, "arrive", None)  # which asks about one, and waits for the answer
    orders = [f"ORD-{number}" for number in range(20)]
    worker.tell(*(envelope(OrderConfirmed(), subject=order) for order in orders))
    worker.tell(*(envelope(PaymentCharged(), subject=order) for order in orders))

    worker.run()

    assert worker.short == (40 if way == "shortcut" else 0)
    assert sorted(fired) == sorted(orders)
    assert worker.undone() == []
    assert list(worker.app.joins) == []


def test_a_part_without_a_key_becomes_a_dead_letter(start: Start, way: str):
    worker = start(way)
    worker.tell(envelope(OrderConfirmed(), subject=""), envelope(OrderConfirmed(), subject="ORD-2"))

    worker.run()

    assert [letter.reason for letter in worker.app.dead_letters] == [Reason.UNREADABLE]
    assert [join.key for join in worker.app.joins] == ["ORD-2"]
    assert worker.undone() == []


def test_an_event_that_was_handled_before_is_not_handled_again(start: Start, way: str):
    ran: list[int] = []
    worker = start(way, lambda: ran.append(1))
    worker.tell(envelope(ORDER, id="e-1"), envelope(ORDER, id="e-1"))

    worker.run()
    worker.tell(envelope(ORDER, id="e-1"))

    assert ran == [1]


@pytest.mark.parametrize(
    "strange",
    [
        {"retries": 1},
        {"compression": "application/x-gzip"},
        {"task": "shop.nothing"},
        {"content_type": "text/plain"},
    ],
)
def test_what_is_not_as_choreo_sends_it_goes_the_usual_way(start: Start, strange: dict[str, Any]):
    worker = start()
    message = Message.carrying(envelope(ORDER, id="e-1"), exchange="", routing_key=worker.queues[0].name)
    content_type = strange.pop("content_type", message.content_type)
    message.headers.update(strange)
    worker.app.publisher.send([replace(message, content_type=content_type)])

    worker.run()

    assert worker.short == 0
    assert worker.undone() == []
    assert worker.long + len(list(worker.app.dead_letters)) == 1


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b"[[{}], {}, {}]",
        b"[[{}],{},{}]",
        b"[[{},{}],{},{}]",
        b"no json",
        b'[["\\ud83d"],{},{}]',
        b"[" * 300,
        b"\xff",
    ],
)
def test_what_cannot_be_read_is_set_aside(start: Start, way: str, body: bytes):
    worker = start(way)
    message = Message.carrying(envelope(ORDER, id="e-1"), exchange="", routing_key=worker.queues[0].name)
    worker.app.publisher.send([Message("", worker.queues[0].name, body, message.headers)])

    worker.run()

    assert worker.short == worker.long == 0
    assert [letter.reason for letter in worker.app.dead_letters] == [Reason.UNREADABLE]
    assert worker.undone() == []


def strange(text: str) -> list[str]:
    """The text of a message with something in it that choreo does not write."""
    message = json.loads(text)
    made = []
    for changed in (
        {"headers": message["headers"] | {"compression": "x"}},
        {"headers": message["headers"] | {"expires": {"__type__": "nothing", "__value__": 1}}},
        {"properties": message["properties"] | {"delivery_info": "x"}},
        {"properties": message["properties"] | {"delivery_info": []}},
        {"properties": message["properties"] | {"body_encoding": "base64"}},
        {"properties": message["properties"] | {"body_encoding": None}},
        {"content-type": "text/plain"},
        {"headers": []},
    ):
        made.append(json.dumps(message | changed))
    return made


@pytest.mark.parametrize("handler", [HANDLER, JOIN])
@pytest.mark.parametrize("watched", [False, True])
def test_a_strange_message_ends_in_the_same_way_whoever_looks_at_it(start: Start, handler: str, watched: bool):
    ends = []
    for way in ("shortcut", "celery"):
        worker = start(way)
        # A rate limit leads to Celery's way, when parts of a join have been looked at already.
        worker.consumer.on_task_message.update([print] if watched else [])
        queue = worker.app.runtime.topology.name_of(handler)
        event = envelope(ORDER if handler == HANDLER else OrderConfirmed(), id="e-1")
        worker.tell(event)
        text = worker.corner.redis.lpop(queue).decode()
        for number, changed in enumerate(strange(text)):
            worker.corner.redis.lpush(queue, changed.replace("e-1", f"e-{number}"))

        worker.run()

        assert worker.undone() == []
        letters = [str(letter.error).split(":")[0] for letter in worker.app.dead_letters]
        ends.append((letters, worker.kinds(), len(list(worker.app.joins)), worker.short + worker.long))
        for letter in list(worker.app.dead_letters):
            worker.app.dead_letters.discard(letter.id)
        worker.corner.redis.delete(*worker.corner.redis.keys(f"choreo:{worker.app.runtime.topology.namespace}:*"))
        worker.close()
        state.reset_state()
    assert ends[0] == ends[1]
    assert ends[0][0]


def test_an_event_whose_data_does_not_fit_becomes_a_dead_letter(start: Start, way: str):
    worker = start(way)
    wrong = envelope(ORDER, id="e-1")
    wrong.data.pop("customer_id")
    worker.tell(wrong)

    worker.run()

    assert [letter.reason for letter in worker.app.dead_letters] == [Reason.UNREADABLE]
    assert worker.kinds()[-1] == "task-failed"
    assert worker.undone() == []


def test_a_revoked_run_becomes_a_dead_letter_whose_replay_runs(start: Start, way: str):
    ran = list[int]()
    worker = start(way, lambda: ran.append(1))
    state.revoked.add(task_id(identity_of("e-1"), HANDLER))
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    (letter,) = worker.app.dead_letters
    assert (ran, letter.reason) == ([], Reason.REVOKED)
    assert worker.kinds()[0] == "task-revoked"
    assert worker.undone() == []
    worker.app.dead_letters.replay(letter.id)
    Clock(worker.app.runtime).tick()
    worker.run()
    assert ran == [1]
    assert worker.undone() == []


@pytest.mark.parametrize("signal", [signals.task_received, signals.task_prerun, signals.task_success])
def test_who_listens_to_celerys_signals_hears_of_every_run(start: Start, signal: Any):
    worker = start()
    heard: list[Any] = []

    def hear(**facts: Any) -> None:
        heard.append(facts)

    signal.connect(hear, weak=False)
    worker.tell(envelope(ORDER, id="e-1"))
    try:
        worker.run()
    finally:
        signal.disconnect(hear)

    assert worker.short == 0
    assert len(heard) == 1


def test_after_a_lost_connection_celery_counts_every_ack_until_it_fetches_as_much_as_before(start: Start):
    worker = start()
    worker.consumer._maximum_prefetch_restored = False
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    assert (worker.short, worker.long) == (0, 1)
    assert worker.kinds()[-1] == "task-succeeded"


def test_a_worker_of_another_broker_or_pool_has_no_shortcut(start: Start):
    worker = start()
    elsewhere = SimpleNamespace(transport=SimpleNamespace(Channel=object))

    for other in ({"connection": elsewhere}, {"pool": ThreadPool(1, app=worker.app)}):
        strategy(worker.app.tasks[HANDLER], worker.app, WorkersConsumer(**vars(worker.consumer) | other))

        assert HANDLER not in worker.app.runtime.lane.shortcuts
        strategy(worker.app.tasks[HANDLER], worker.app, worker.consumer)
        assert HANDLER in worker.app.runtime.lane.shortcuts


def test_a_request_is_made_once_though_another_thread_looks(start: Start):
    found: list[Any] = []

    def look() -> None:
        (request,) = state.active_requests
        thread = threading.Thread(target=lambda: found.append(request.message.delivery_tag))
        thread.start()
        eventually(lambda: found)
        found.append(request.message.delivery_tag)

    worker = start(behave=look)
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    assert worker.short == 1
    assert found[0] == found[1]


def test_what_a_handler_sets_in_its_request_stays(start: Start, way: str):
    seen: list[Any] = []

    def change() -> None:
        request = current_task.request
        request.root_id = "another"
        seen.append((request.root_id, request.parent_id))

    worker = start(way, change)
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    assert seen == [("another", None)]


def test_nobody_finds_a_request_that_is_half_made(start: Start, monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    making = threading.Event()
    prepare = HandlerQueue.prepare

    def slowly(self: Any, message: Any) -> None:
        if not making.is_set():
            making.set()
            eventually(lambda: seen)
        prepare(self, message)

    def look() -> None:
        request = current_task.request
        first = threading.Thread(target=lambda: request.task)
        first.start()
        assert making.wait(DEADLINE)
        seen.append("")
        seen.append(request.task)
        first.join()

    monkeypatch.setattr(HandlerQueue, "prepare", slowly)
    worker = start(behave=look)
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    assert worker.short == 1
    assert seen == ["", HANDLER]


def test_a_run_can_be_copied(start: Start):
    copies: list[Any] = []
    worker = start(behave=lambda: copies.append(copy(next(iter(state.active_requests)))))
    worker.tell(envelope(ORDER, id="e-1"))

    worker.run()

    assert copies[0].id == task_id(identity_of("e-1"), HANDLER)
