"""What Flower reads is what Celery's own dispatcher would have told it."""

import time
from collections.abc import Sequence
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import pytest
from celery.events.dispatcher import EventDispatcher
from kombu.serialization import dumps, loads

from choreo import Envelope
from choreo.worker.worker_events import AT_THE_LATEST, COLLECT_SECONDS, LULL_SECONDS, Lull, ServiceDispatcher
from tests.unit.stage import service

TOLD: list[tuple[str, dict[str, Any]]] = [
    (
        "task-received",
        {"uuid": "t-1", "name": "payment.charge", "args": 'order.placed "ORD-ü"', "eta": None, "retries": 0},
    ),
    ("task-started", {"uuid": "t-1"}),
    ("task-succeeded", {"uuid": "t-1", "result": "'done'", "runtime": 0.00125}),
    ("task-failed", {"uuid": "t-2", "exception": "OSError()", "traceback": "line\nline"}),
    ("task-retried", {"uuid": "t-3", "exception": "Retry()"}),
]


class Producer:
    """The end of the line: what would go to the broker. ``broken`` makes it a broker that is away."""

    def __init__(self, broken: bool = False, listeners: int | None = None) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.declared: list[Any] = []
        self.broken = broken
        self.channel = SimpleNamespace(listeners=listeners)

    def publish(self, body: Any, routing_key: str, **how: Any) -> None:
        if self.broken:
            raise ConnectionError("away")
        assert how["exchange"] == "celeryev"
        self.declared += how["declare"] or []
        content_type, encoding, text = dumps(body, how["serializer"])
        self.sent.append((routing_key, loads(text, content_type, encoding, accept=[content_type])))


def dispatcher(
    kind: type[EventDispatcher] = ServiceDispatcher,
    handlers: Sequence[str] = (),
    task_send_sent_event: bool = False,
    **options: Any,
) -> Any:
    app = service()
    app.conf.task_send_sent_event = task_send_sent_event
    for name in handlers:
        app.on("order.placed", name=name)(_hear)
    defaults = {"hostname": "payment@here", "enabled": True, "buffer_group": ["task"], "buffer_limit": 1000}
    made = kind(app.connection_for_write(), app=app, **(defaults | options))
    made.producer = Producer()
    return made


def _hear(event: Envelope) -> None: ...


def told(made: Any) -> list[dict[str, Any]]:
    events = []
    for routing_key, body in made.producer.sent:
        assert routing_key == "task.multi"
        events += [{name: value for name, value in event.items() if name != "timestamp"} for event in body]
    return events


def test_flower_is_told_the_same_as_by_celery():
    ours, celerys = dispatcher(), dispatcher(EventDispatcher)

    for made in (ours, celerys):
        for kind, fields in TOLD:
            made.send(kind, **fields)
        assert made.producer.sent == [], "nothing is sent before it is time"
        made.flush()

    assert told(ours) == told(celerys)


def collect(made: Any, flush: int, count: int) -> None:
    """What comes before this flush."""
    for number in range(count):
        made.send("task-started", uuid=f"t-{flush}-{number}")


def test_once_somebody_listens_everything_is_sent_in_one_go():
    made = dispatcher()
    for flush in range(2):
        collect(made, flush, 3)
        made.flush()

    assert [len(body) for _, body in made.producer.sent] == [1, 2, 3]


def test_the_exchange_is_declared_once_for_each_channel():
    made = dispatcher()
    for _ in range(2):
        made.send("task-started", uuid="t-1")
        made.flush()
    assert made.producer.declared == [made.exchange]

    made.producer = Producer()
    made.send("task-started", uuid="t-1")
    made.flush()

    assert made.producer.declared == [made.exchange]


def a_run(made: Any, received: float, started: float) -> None:
    event = {"args": 'order.placed "ORD-ü"', "root_id": "e-0", "parent_id": "e-1"}
    made.send_run(
        "t-1", "payment.charge", **event, received=received, started=started, result="'done'", runtime=0.00125
    )


@pytest.mark.parametrize("groups", [(), ("task",)], ids=["everything", "tasks only"])
def test_what_is_told_of_a_run_in_one_go_is_what_celery_tells_in_its_course(groups: tuple[str, ...]):
    ours, celerys = dispatcher(groups=groups), dispatcher(EventDispatcher, groups=groups)
    event = {"args": 'order.placed "ORD-ü"', "kwargs": "", "root_id": "e-0", "parent_id": "e-1"}

    a_run(ours, 5.25, 6.5)
    celerys.send("task-received", uuid="t-1", name="payment.charge", **event, retries=0, eta=None, expires=None)
    celerys.send("task-started", uuid="t-1")
    celerys.send("task-succeeded", uuid="t-1", result="'done'", runtime=0.00125)
    for made in (ours, celerys):
        made.flush()

    assert told(ours) == told(celerys)
    received, started, succeeded = (event["timestamp"] for _, body in ours.producer.sent for event in body)
    assert (received, started) == (5.25, 6.5)
    assert abs(succeeded - time.time()) < 60


#: A part of "task-sent" for the run of `a_run`.
SENT = {
    "root_id": "e-0",
    "parent_id": "e-1",
    "queue": "payment.charge",
    "exchange": "",
    "routing_key": "payment.charge",
}


@pytest.mark.parametrize("groups", [(), ("task",)], ids=["everything", "tasks only"])
@pytest.mark.parametrize("way", ["in one go", "in its course"])
def test_the_queue_of_a_run_is_told_if_it_is_asked_for(groups: tuple[str, ...], way: str):
    made = dispatcher(groups=groups, handlers=["charge"], task_send_sent_event=True)

    if way == "in one go":
        a_run(made, 5.25, 6.5)
    else:
        about = {"root_id": "e-0", "parent_id": "e-1", "retries": 0, "args": "order.placed ORD-1"}
        made.send("task-received", uuid="t-1", name="payment.charge", **about)
    made.send("task-received", uuid="t-2", name="payment.tidy")
    made.flush()

    sent, received = told(made)[:2]
    assert (sent["type"], received["type"]) == ("task-sent", "task-received")
    assert sent["clock"] < received["clock"]
    assert (sent["uuid"], sent["name"], sent["retries"]) == ("t-1", "payment.charge", 0)
    assert SENT.items() <= sent.items()
    # Celery tells of ordinary tasks when they are sent.
    assert [event["uuid"] for event in told(made) if event["type"] == "task-sent"] == ["t-1"]


def test_nothing_is_told_of_a_run_while_events_are_switched_off():
    made = dispatcher()
    made.enabled = False

    a_run(made, 5.25, 6.5)
    made.flush()

    assert made.producer.sent == []


def test_a_full_buffer_is_sent():
    made = dispatcher(buffer_limit=3)

    for kind, fields in TOLD[:3]:
        made.send(kind, **fields)

    assert [event["type"] for event in told(made)] == [kind for kind, _ in TOLD[:3]]


@pytest.mark.parametrize("options", [{"enabled": False}, {"groups": ["worker"]}])
def test_what_nobody_wants_to_hear_is_not_collected(options: dict[str, Any]):
    made = dispatcher(**options)

    made.send("task-started", uuid="t-1")
    made.flush()

    assert made.producer is None or made.producer.sent == []


def test_what_a_broker_that_is_away_did_not_take_is_sent_over_the_next_connection():
    first, second = dispatcher(), dispatcher()
    first.send("task-started", uuid="t-1")
    first.producer = Producer(broken=True)
    first.flush()
    first.send("task-started", uuid="t-2")

    second.extend_buffer(first)
    second.flush()

    assert [event["uuid"] for event in told(second)] == ["t-1", "t-2"]


@pytest.mark.parametrize("listeners", [None, 1])
def test_however_many_there_are_flower_is_told_all_of_them_in_order(listeners: int | None):
    made = dispatcher()
    made.producer = Producer(listeners=listeners)
    for number in range(40):
        made.send("task-started", uuid=f"t-{number}")

    made.flush()

    assert [event["uuid"] for event in told(made)] == [f"t-{number}" for number in range(40)]


def test_what_nobody_listens_to_is_not_sent_in_full_until_somebody_does():
    made = dispatcher()
    made.producer = Producer(listeners=0)
    for flush in range(3):
        collect(made, flush, 2)
        made.producer.channel.listeners = int(flush == 2)
        made.flush()
        made.flush()

    assert [event["uuid"] for event in told(made)] == ["t-0-0", "t-1-0", "t-2-0", "t-2-1"]


def test_once_nobody_listens_any_more_everything_is_sent_one_last_time():
    made = dispatcher()
    made.producer = Producer(listeners=1)
    for flush in range(3):
        collect(made, flush, 2)
        made.flush()
        made.producer.channel.listeners = 0

    assert [event["uuid"] for event in told(made)] == ["t-0-0", "t-0-1", "t-1-0", "t-1-1", "t-2-0"]


def test_what_cannot_be_written_keeps_nothing_else_from_being_sent(caplog: pytest.LogCaptureFixture):
    made = dispatcher()
    for result in ("one", object(), "three"):
        made.send("task-succeeded", uuid="t-1", result=result)

    made.flush()
    made.flush()

    assert [event["result"] for event in told(made)] == ["one", "three"]
    assert [record.message for record in caplog.records] == ["a worker event cannot be encoded, and is dropped"]


def test_what_was_told_before_a_broker_went_away_is_not_told_again():
    first, second = dispatcher(), dispatcher()
    for number in range(40):
        first.send("task-started", uuid=f"t-{number}")
    publish = first.producer.publish

    def once(*args: Any, **how: Any) -> None:
        publish(*args, **how)
        first.producer.broken = True

    first.producer.publish = once
    first.flush()

    second.extend_buffer(first)
    second.flush()

    told_now = [event["uuid"] for event in told(second)]
    assert [event["uuid"] for event in told(first)] + told_now == [f"t-{number}" for number in range(40)]


def test_another_serializer_is_kombus_business():
    made = dispatcher(serializer="yaml")

    made.send("task-started", uuid="t-1")
    made.flush()

    assert [event["uuid"] for event in told(made)] == ["t-1"]


class Loop:
    """An event loop with a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Any]] = []

    def call_soon(self, call: Any, *args: Any) -> None:
        call(*args)

    def call_later(self, seconds: float, call: Any) -> None:
        self.timers.append((self.now + seconds, call))

    def run_until(self, end: float) -> None:
        while self.timers and min(self.timers, key=itemgetter(0))[0] <= end:
            timer = min(self.timers, key=itemgetter(0))
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr("choreo.worker.worker_events.monotonic", lambda: made.now)
    return made


@pytest.mark.parametrize(
    ("collected", "sent"),
    [
        ([0], [COLLECT_SECONDS]),
        # What comes later goes with it, if a moment has passed.
        ([0, 0.1], [COLLECT_SECONDS]),
        # An order every 50 ms: the moment lies between two of them.
        ([0, 0.05, 0.1, 0.15, 0.195], [COLLECT_SECONDS + LULL_SECONDS]),
        # Something happens all the time: what comes after the first moment waits for the second.
        ([n / 100 for n in range(40)], [AT_THE_LATEST, 0.31 + COLLECT_SECONDS]),
    ],
    ids=["one", "several", "beside others", "a backlog"],
)
def test_collected_events_are_sent_when_nothing_happens_but_not_too_late(loop: Loop, collected: Any, sent: Any):
    moments: list[float] = []
    lull = Lull(loop, lambda: moments.append(loop.now))

    for moment in collected:
        loop.run_until(moment)
        lull.collected()
    loop.run_until(10)

    assert moments == pytest.approx(sent)


def test_what_was_to_be_sent_is_sent_later_when_the_loop_has_forgotten(loop: Loop):
    moments: list[float] = []
    lull = Lull(loop, lambda: moments.append(loop.now))
    lull.collected()
    loop.timers.clear()  # the connection was lost

    lull.forget()
    lull.collected()
    loop.run_until(10)

    assert moments == [COLLECT_SECONDS]
