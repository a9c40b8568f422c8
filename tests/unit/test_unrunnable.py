"""What Celery takes and cannot run becomes a dead letter or a failed task; the worker goes on."""

import json
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.pool import MaybeEncodingError
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from kombu.exceptions import ContentDisallowed, OperationalError

from choreo import Service
from choreo.delivery.delivery import tokens_of
from choreo.delivery.ending import End
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.store.claims import Claim, Settlement
from choreo.worker.request import SafeRequest
from choreo.worker.unrunnable import FAULTS, guard_traces, guarded
from tests.unit.events import OrderPlaced, envelope
from tests.unit.stage import service
from tests.unit.test_queue import Channel, virtual_message

HEADERS = {"task": "payment.plain", "id": "t-1"}


@pytest.fixture
def app() -> Service:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    @app.task(name="payment.plain")
    def plain(number: int) -> float:
        return 1 / number

    app.finalize()
    return app


class KombusChannel(Channel):
    """As much of a broker's channel as kombu's message asks for."""

    no_ack_consumers = None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002
        super().basic_ack(delivery_tag)


class Rig:
    """A consumer of Celery's, as far as the guard looks at it, and a message for it."""

    def __init__(self, app: Service, error: Exception, queue: str = "payment") -> None:
        self.channel = KombusChannel()
        self.message = virtual_message(self.channel, b"[[1], {}, {}]", dict(HEADERS), "application/json", "utf-8")
        self.message.delivery_info = {"exchange": "", "routing_key": queue}
        self.consumer = SimpleNamespace(app=app, connection_errors=(OSError,), channel_errors=())
        self.error = error

    def handle(self, _: Any) -> None:
        raise self.error

    def run(self) -> None:
        guarded(self.consumer, self.handle)(self.message)


@pytest.mark.parametrize("error", [fault("no such thing") for fault in FAULTS], ids=repr)
def test_a_message_that_celery_cannot_run_is_kept_and_acked(app: Service, error: Exception) -> None:
    rig = Rig(app, error)

    rig.run()

    (letter,) = app.dead_letters
    assert (letter.handler, letter.reason, letter.message.body) == ("payment", "unreadable", b"[[1], {}, {}]")
    assert rig.channel.answers == [("ack", "t-1")]


def test_it_is_kept_for_the_handler_from_whose_queue_it_came(app: Service) -> None:
    Rig(app, ValueError("no"), "payment.charge").run()
    Rig(app, ValueError("no"), "payment.dead_letters").run()
    Rig(app, ValueError("no"), "nobody.knows").run()

    assert [letter.handler for letter in app.dead_letters] == ["payment.charge", "payment.dead_letters", "payment"]


def test_a_message_that_celery_has_acked_is_kept_and_not_acked_again(app: Service) -> None:
    rig = Rig(app, ValueError("no"))
    rig.message.ack()

    rig.run()

    assert len(list(app.dead_letters)) == 1
    assert rig.channel.answers == [("ack", "t-1")]


@pytest.mark.parametrize("queue", ["payment.charge", "payment.dead_letters"])
def test_an_event_that_was_handled_and_acked_makes_no_dead_letter(app: Service, queue: str) -> None:
    rig = Rig(app, ValueError("no"), queue)
    rig.message.ack()

    rig.run()

    assert not list(app.dead_letters)
    assert rig.channel.answers == [("ack", "t-1")]


def test_without_a_store_it_stays_in_its_queue(app: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo.broker.queue.STORE_PAUSE", 0)
    monkeypatch.setattr(type(app.runtime.store), "add_letter", lambda *_: (_ for _ in ()).throw(StoreError("away")))
    rig = Rig(app, ValueError("no"))

    rig.run()

    assert rig.channel.answers == [("requeue", "t-1")]


@pytest.mark.parametrize("error", [OSError("cut"), OperationalError("cut"), RuntimeError("no pool"), MemoryError()])
def test_an_error_of_the_connection_or_the_pool_is_not_the_messages_fault(app: Service, error: Exception) -> None:
    with pytest.raises(type(error)):
        Rig(app, error).run()

    assert not list(app.dead_letters)


FOLLOWING = [{"errbacks": [{}]}, {"chain": [5]}, {"callbacks": [{"task": 5}]}, {"chord": 5}, {"callbacks": 5}]


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize("following", FOLLOWING, ids=repr)
@pytest.mark.parametrize("number", [0, 1])
def test_a_call_that_cannot_follow_a_run_makes_it_a_failure_and_raises_nothing(
    app: Service, following: dict[str, Any], number: int
) -> None:
    task = app.tasks["payment.plain"]
    task.__trace__ = build_tracer(task.name, task, app=app)
    guard_traces(app)
    trace: Callable[..., Any] = task.__trace__

    answer = trace("t-1", [number], {}, {"id": "t-1", "delivery_info": {}, "ignore_result": True, **following})

    json.dumps(answer.runtime)
    assert answer.info is None or answer.info.state == "FAILURE"


def test_a_task_that_asks_for_its_message_to_be_rejected_is_left_alone(app: Service) -> None:
    task = app.tasks["payment.plain"]

    def trace(*_: Any) -> Any:
        raise Reject("no")

    task.__trace__ = trace
    guard_traces(app)

    with pytest.raises(Reject):
        task.__trace__("t-1", [1], {}, {})


@pytest.mark.parametrize("name", ["payment.charge", "payment.dead_letters"])
def test_what_a_pool_could_not_read_is_kept_but_no_notice_of_another_letter(app: Service, name: str) -> None:
    rig = Rig(app, ValueError(), name)
    rig.message.headers["task"] = name
    request = SafeRequest(rig.message, app=app, task=app.tasks[name], on_ack=rig.message.ack_log_error)
    try:
        raise ContentDisallowed("no JSON")
    except ContentDisallowed:
        request.on_failure(ExceptionInfo())

    assert [letter.handler for letter in app.dead_letters] == ["payment.charge"] * (name == "payment.charge")
    assert rig.channel.answers == [("ack", "t-1")]


def test_a_run_whose_answer_could_not_be_written_makes_no_dead_letter_and_comes_again(app: Service) -> None:
    rig = Rig(app, ValueError(), "payment.charge")
    rig.message.headers["task"] = "payment.charge"
    answers = {"on_ack": rig.message.ack_log_error, "on_reject": rig.message.reject_log_error}
    request = SafeRequest(rig.message, app=app, task=app.tasks["payment.charge"], **answers)
    try:
        raise MaybeEncodingError(TypeError("cannot pickle"), "answer")
    except MaybeEncodingError:
        request.on_failure(ExceptionInfo())

    assert not list(app.dead_letters)
    assert rig.channel.answers == [("requeue", "t-1")]


def test_a_process_records_its_end_on_a_run_of_its_own_only(app: Service) -> None:
    order = envelope(OrderPlaced(customer_id="alice"))
    sent = Message.carrying(order, exchange="", routing_key="payment.charge")
    message = virtual_message(KombusChannel(), sent.body, sent.headers, "application/json", "utf-8")
    request = SafeRequest(message, app=app, task=app.tasks["payment.charge"])
    request.worker_pid = 4711
    store = app.runtime.store

    # The last one is a run of the gevent pool, for which Celery has no process id.
    note = "time_limit too long"
    for attempt, pid, noted in ((1, 4712, ""), (2, 4711, note), (3, os.getpid(), note)):
        claim = Claim("payment.charge", order.identity, f"{tokens_of(pid)}a", attempt)
        store.begin(claim)
        request._record_end(End.TIME_LIMIT, "too long")
        assert store.last_end("payment.charge", order.identity).text == noted
        store.commit(claim, Settlement(done=False))
