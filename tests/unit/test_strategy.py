"""A handler runs in its worker's own process with less ceremony, and nobody can tell it from Celery's own way."""

import functools
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery import _state, current_task, signals
from celery.app.trace import build_tracer, reset_worker_optimizations, setup_worker_optimizations
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker import state
from celery.worker.consumer import Consumer as CelerysConsumer
from celery.worker.strategy import default
from kombu.transport.virtual.base import Message

from choreo import Envelope, PermanentFailure, Reason, Retry
from choreo.broker import workload
from choreo.broker.incoming import EventText
from choreo.broker.queue import run_headers
from choreo.delivery.delivery import tokens_of
from choreo.events.ids import task_id
from choreo.fast.request import HandlerRequest
from choreo.fast.strategy import strategy
from choreo.store import Claim
from choreo.worker import logs
from choreo.worker.discarded import warn_of_discarded
from tests.unit.events import OrderPlaced, PaymentCharged, envelope, identity_of
from tests.unit.stage import Stage, service
from tests.waiting import eventually

ORDER = OrderPlaced(customer_id="alice", total_cents=500)
HANDLER = "payment.charge"


class Events:
    """Takes down what is sent to Flower."""

    enabled = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **facts: Any) -> None:
        self.sent.append((kind, facts))


class Consumer(SimpleNamespace):
    """Of Celery's, what a strategy asks for."""

    __hash__ = object.__hash__


class Bench:
    """A worker's consumer, and a task of its service with two strategies: the short one and Celery's."""

    def __init__(self, pool: type = SoloPool, behave: Callable[[], Any] = lambda: None) -> None:
        app = service("payment")

        @app.on(OrderPlaced, retry=Retry(times=2))
        def charge(order: OrderPlaced):
            return behave()

        self.stage = Stage(app)
        app.runtime.lane.in_process = True
        self.task = app.tasks[HANDLER]
        setup_worker_optimizations(app, "payment@here")
        self.task.__trace__ = build_tracer(HANDLER, self.task, app=app, hostname="payment@here")
        self.pool = pool(1, app=app)
        self.events = Events()
        self.limited: list[Any] = []
        self.acked: list[str] = []
        self.rejected: list[Any] = []
        self.consumer = Consumer(
            hostname="payment@here",
            connection_errors=(),
            event_dispatcher=self.events,
            timer=SimpleNamespace(call_at=None),
            apply_eta_task=None,
            disable_rate_limits=False,
            task_buckets=defaultdict(lambda: None),
            on_task_request=lambda request: request.execute_using_pool(self.pool),
            _limit_task=lambda request, *_: self.limited.append(request),
            _limit_post_eta=None,
            controller=SimpleNamespace(state=state),
            pool=self.pool,
            connection=SimpleNamespace(transport=None),
            on_task_message=set(),
            _maximum_prefetch_restored=True,
        )
        self.short = strategy(self.task, app, self.consumer)
        self.celerys = default(self.task, app, self.consumer)

    def deliver(
        self,
        strategy: Any,
        unit: str = "e-1",
        retries: int = 0,
        callbacks: Any = (),
        headers: Any = None,
        body: Any = None,
        queue: str = HANDLER,
        event: Envelope | None = None,
    ) -> None:
        event = event or envelope(ORDER, id=unit)
        info = {"exchange": "", "routing_key": queue}
        message = Message(
            {
                "body": "[[], {}, {}]",
                "headers": run_headers(HANDLER, event, retries) | (headers or {}),
                "properties": {"delivery_tag": unit, "delivery_info": info},
                "content-type": "application/json",
                "content-encoding": "utf-8",
            },
            channel=SimpleNamespace(decode_body=lambda body, _: body, line=None),
        )
        message._decoded_cache = [[EventText.of(event)], {}, {}] if body is None else list(body)
        strategy(
            message,
            None,
            lambda *_: self.acked.append(unit),
            lambda *facts: self.rejected.append((unit, facts[-1])),
            callbacks,
        )

    def request(self) -> Any:
        """The request of a delivery that waits for a place in the pool."""
        requests: list[Any] = []
        self.consumer.on_task_request = requests.append
        waiting = default(self.task, self.stage.app, self.consumer)
        self.deliver(waiting)
        (request,) = requests
        return request

    def both(self, **options: Any) -> tuple[list[Any], list[Any]]:
        """What Flower is told of a delivery in the short way, and of one in Celery's."""
        assert self.task.has_short_tracer
        told = []
        for way, unit in ((self.short, "e-1"), (self.celerys, "e-2")):
            self.deliver(way, unit=unit, **options)
            told.append([(kind, comparable(facts)) for kind, facts in self.events.sent])
            self.events.sent.clear()
        return told[0], told[1]


def failure_of(error: Exception) -> ExceptionInfo:
    """An error as the pool reports it."""
    try:
        raise error
    except Exception:
        return ExceptionInfo()


def comparable(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run."""
    assert facts["uuid"] in (task_id(identity_of("e-1"), HANDLER), task_id(identity_of("e-2"), HANDLER))
    assert facts.get("runtime", 0) >= 0
    return {name: fact for name, fact in facts.items() if name not in ("uuid", "root_id", "runtime", "traceback")}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `celery worker` logs unless it is told otherwise; and the state of no worker but this one."""
    for signal in (signals.task_received, signals.task_prerun, signals.task_postrun, signals.task_success):
        monkeypatch.setattr(signal, "receivers", [])  # other tests may have some
    before = _state._tls.current_app, _state.default_app
    with caplog.at_level(logging.WARNING, "celery"):
        state.reset_state()
        yield
        state.reset_state()
    reset_worker_optimizations()
    _state._tls.current_app, _state.default_app = before


def test_a_success_is_told_counted_and_acked_as_with_celery():
    bench = Bench()

    short, celerys = bench.both(retries=1)

    assert bench.short is not bench.celerys
    assert short == celerys
    assert [kind for kind, _ in short] == ["task-received", "task-started", "task-succeeded"]
    assert bench.acked == ["e-1", "e-2"]
    assert state.total_count == {HANDLER: 2}
    assert state.all_total_count == [2]
    assert not state.requests, "nothing is left over"
    assert not state.reserved_requests


def test_a_handler_finds_the_same_request_as_with_celery_and_inspect_finds_it_active():
    seen: list[dict[str, Any]] = []

    def look() -> None:
        (request,) = state.active_requests
        assert request.info()["id"] == current_task.request.id
        assert state.requests[request.id] is request
        facts = {**vars(current_task.request), **request.info()}
        seen.append({name: fact for name, fact in facts.items() if name not in ("time_start", "args", "id")})

    Bench(behave=look).both()

    short, celerys = seen
    unlike = {name for name in short.keys() | celerys.keys() if short.get(name) != celerys.get(name)}
    assert unlike <= {"_protected", "properties", "root_id", "_children"}, "they are different events"
    assert not current_task


@pytest.mark.parametrize(
    ("error", "retries"),
    [
        (OSError("the gateway is down"), 0),
        (OSError("the gateway is down"), 2),
        (PermanentFailure("refused"), 0),
        (SystemExit(3), 2),
    ],
)
def test_a_failure_is_told_and_acked_as_with_celery(error: BaseException, retries: int):
    def fail() -> None:
        raise error

    bench = Bench(behave=fail)

    short, celerys = bench.both(retries=retries)

    assert [kind for kind, _ in short] == [kind for kind, _ in celerys]
    assert short[-1][0] == ("task-retried" if type(error) is OSError and retries == 0 else "task-failed")
    assert [facts.get("exception", "")[:20] for _, facts in short] == [
        facts.get("exception", "")[:20] for _, facts in celerys
    ]
    assert bench.acked == ["e-1", "e-2"]
    assert not state.requests


@pytest.mark.parametrize("body", [([], {}, {}), ([], {"event": 7, "other": 8}, {}), ([[1]], {}, {"chord": None})])
def test_a_task_that_somebody_sent_with_the_wrong_arguments_fails_and_ends_nobody(body: Any):
    bench = Bench()

    short, celerys = bench.both(body=body, queue="payment")

    assert [kind for kind, _ in short] == [kind for kind, _ in celerys]
    assert short[-1][0] == "task-failed"
    assert bench.acked == ["e-1", "e-2"]


def test_what_somebody_wants_to_follow_upon_a_task_that_he_sent_follows(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    app = bench.stage.app
    sent: list[str] = []
    monkeypatch.setattr(
        type(app.amqp), "_retry_publish", lambda _, apply, *_args, **_options: sent.append(apply.__self__.task)
    )
    embed = {"callbacks": [app.signature("payment.thank")], "chain": [app.signature("payment.pack")]}

    bench.deliver(bench.short, body=([EventText.of(envelope(ORDER))], {}, embed), queue="payment")

    assert sent == ["payment.thank", "payment.pack"]


def test_a_connection_that_breaks_while_a_handler_runs_keeps_nothing_from_flower():
    go_on = threading.Event()
    bench = Bench(ThreadPool, behave=lambda: (go_on.wait(), None)[1])
    bench.deliver(bench.short)
    eventually(lambda: state.active_requests)

    (request,) = state.active_requests
    request.eventer = later = Events()  # Celery does that when it has connected again
    go_on.set()

    eventually(lambda: later.sent)
    assert [kind for kind, _ in later.sent] == ["task-succeeded"]


def test_a_request_of_the_users_own_is_made():
    bench = Bench()
    made: list[str] = []

    class OwnRequest(HandlerRequest):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self.id)

    bench.task.Request = OwnRequest
    bench.deliver(strategy(bench.task, bench.stage.app, bench.consumer))

    assert made == [task_id(identity_of("e-1"), HANDLER)]


def test_a_pool_of_the_users_own_is_asked():
    asked: list[Any] = []

    class OwnPool(SoloPool):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            asked.append(args)
            return super().apply_async(*args, **options)

    bench = Bench(OwnPool)
    bench.deliver(bench.short)

    assert len(asked) == 1
    assert bench.acked == ["e-1"]


def test_a_copy_that_is_given_back_is_rejected_as_with_celery(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    monkeypatch.setattr(bench.stage.store, "begin", None)

    short, celerys = bench.both()

    assert short == celerys
    assert bench.rejected == [("e-1", True), ("e-2", True)]
    assert bench.acked == []


def test_what_waits_for_a_thread_is_reserved_and_not_active():
    go_on = threading.Event()
    bench = Bench(ThreadPool, behave=lambda: (go_on.wait(), None)[1])

    bench.deliver(bench.short, "e-1")
    bench.deliver(bench.short, "e-2")

    eventually(lambda: state.active_requests)
    assert [request.id for request in state.active_requests] == [task_id(identity_of("e-1"), HANDLER)]
    assert workload.unstarted_count() == 1
    go_on.set()
    eventually(lambda: [kind for kind, _ in bench.events.sent].count("task-succeeded") == 2)
    assert bench.acked == ["e-1", "e-2"]
    assert workload.unstarted_count() == 0


@pytest.mark.parametrize("way", ["short", "celerys"])
def test_a_revoked_run_becomes_a_dead_letter_and_its_handler_is_not_called(way: str):
    bench = Bench(behave=lambda: pytest.fail("it ran"))
    revoked = task_id(identity_of("e-1"), HANDLER)
    state.revoked.add(revoked)

    bench.deliver(getattr(bench, way))

    (letter,) = bench.stage.dead_letters
    assert (letter.reason, letter.subject) == (Reason.REVOKED, "ORD-1")
    assert letter.error == f"task {revoked} was revoked with `celery control`"
    assert bench.events.sent[0][0] == "task-revoked"
    assert bench.events.sent[0][1]["uuid"] == revoked
    assert {facts["uuid"] for _, facts in bench.events.sent[1:]}.isdisjoint({revoked})
    assert bench.acked == ["e-1"]
    assert not state.requests


def test_the_replay_of_a_revoked_run_is_not_revoked():
    bench = Bench(behave=PaymentCharged)
    state.revoked.add(task_id(identity_of("e-1"), HANDLER))
    bench.deliver(bench.short)
    (letter,) = bench.stage.dead_letters

    bench.stage.app.dead_letters.replay(letter.id)
    ((_, message),) = bench.stage.store.due(HANDLER, 9, 1)
    event = Envelope.from_wire(json.loads(message.body)[0][0])
    bench.deliver(bench.short, event=event)

    assert bench.stage.types == ["payment.charged"]
    assert bench.stage.dead_letters == []
    assert (event.replay, event.extensions, event) == (letter.id, {}, letter.envelopes[0])


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"expires": "2020-01-01T00:00:00+00:00"}, "expired at 2020-01-01T00:00:00+00:00"),
        ({"expires": "2020-01-01T00:00:00"}, "expired at 2020-01-01T00:00:00+00:00"),
        ({"stamped_headers": ["tenant"], "stamps": {"tenant": ["acme"]}}, "with the stamp tenant=['acme']"),
        ({"stamped_headers": ["tenant"], "stamps": {"tenant": "acme"}}, "with the stamp tenant=acme"),
    ],
)
def test_a_handlers_task_that_expires_or_whose_stamp_is_revoked_becomes_a_dead_letter(headers: Any, why: str):
    bench = Bench(behave=lambda: pytest.fail("it ran"))
    state.revoked_stamps["tenant"] = ["acme"]

    bench.deliver(bench.short, headers=headers, queue="payment")

    (letter,) = bench.stage.dead_letters
    assert letter.reason is Reason.REVOKED
    assert why in letter.error
    assert bench.acked == ["e-1"]


def test_a_task_that_somebody_sends_for_later_is_celerys_own_business():
    bench = Bench(behave=lambda: pytest.fail("it ran"))
    waiting: list[Any] = []
    bench.consumer.qos = SimpleNamespace(increment_eventually=lambda: None)
    bench.consumer.timer.call_at = lambda *facts, **_: waiting.append(facts)

    short = strategy(bench.task, bench.stage.app, bench.consumer)
    bench.deliver(short, headers={"eta": "2030-01-01T00:00:00"}, queue="payment")

    assert [kind for kind, _ in bench.events.sent] == ["task-received"]
    assert len(waiting) == 1


@pytest.mark.parametrize("is_green", [False, True])
def test_a_terminated_run_goes_back_and_becomes_a_dead_letter_where_it_comes_next(is_green: bool):
    bench = Bench()
    bench.stage.store.begin(Claim(HANDLER, identity_of("e-1"), f"{tokens_of(4711)}1", 1))
    request = bench.request()
    request.on_accepted(4711, monotonic())

    request.terminate(SimpleNamespace(is_green=is_green, terminate_job=lambda *_: None), "SIGTERM")
    assert (bench.acked, bench.rejected) == ([], [])  # the process may go on
    if is_green:
        request.on_success((False, None, 0))
    else:
        request.on_failure(failure_of(Terminated(-15)))

    assert (bench.acked, bench.rejected) == ([], [("e-1", True)])
    assert {"task-revoked", "task-rejected"} <= {kind for kind, _ in bench.events.sent}
    assert not state.active_requests
    bench.stage.wait(60)
    bench.deliver(bench.short)
    (letter,) = bench.stage.dead_letters
    assert letter.reason is Reason.REVOKED
    assert letter.error == "it was ended with signal 15 (SIGTERM) by `celery control`: process 4711 of payment@here"


def test_a_run_that_outlives_its_termination_succeeds():
    bench = Bench()
    request = bench.request()
    request.on_accepted(4711, monotonic())

    request.terminate(SimpleNamespace(is_green=False, terminate_job=lambda *_: None), "SIGUSR1")
    request.on_success((False, "done", 0.1))

    assert (bench.acked, bench.rejected) == (["e-1"], [])


def test_who_wraps_celerys_tracer_is_part_of_every_run():
    bench = Bench()
    celerys, measured = build_tracer(HANDLER, bench.task, app=bench.stage.app, hostname="payment@here"), list[str]()

    @functools.wraps(celerys)
    def measuring(uuid: str, *args: Any, **kwargs: Any) -> Any:
        measured.append(uuid)
        return celerys(uuid, *args, **kwargs)

    bench.task.__trace__ = measuring
    bench.deliver(bench.short)

    assert measured == [task_id(identity_of("e-1"), HANDLER)]


def test_celerys_consumer_still_says_whether_it_fetches_as_much_as_before():
    assert "_maximum_prefetch_restored" in CelerysConsumer.__init__.__code__.co_names, "see InProcess.is_clear"


def test_a_rate_limit_holds():
    bench = Bench(behave=lambda: pytest.fail("it ran"))
    bench.consumer.task_buckets[HANDLER] = object()

    bench.deliver(bench.short)

    (request,) = bench.limited
    assert request.id == task_id(identity_of("e-1"), HANDLER)


@pytest.mark.parametrize("signal", [signals.task_received, signals.task_prerun, signals.task_success])
def test_who_listens_to_celerys_signals_hears_of_every_run(signal: Any):
    bench = Bench()
    heard: list[Any] = []

    def hear(**facts: Any) -> None:
        heard.append(facts)

    signal.connect(hear, weak=False)
    try:
        bench.deliver(bench.short)
    finally:
        signal.disconnect(hear)

    assert len(heard) == 1


def test_who_is_to_be_called_for_each_delivery_is_called():
    bench = Bench()
    called: list[Any] = []
    bench.consumer.on_task_message.add(called.append)

    bench.deliver(bench.short, callbacks=bench.consumer.on_task_message)

    assert [request.id for request in called] == [task_id(identity_of("e-1"), HANDLER)]


@pytest.mark.parametrize(
    ("log", "words"), [("celery.worker.strategy", "received"), ("celery.app.trace", "succeeded in")]
)
def test_at_debug_celery_logs_every_delivery(log: str, words: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, log):
        bench = Bench()
        bench.deliver(bench.short)

    assert words in caplog.text


@pytest.fixture
def installed() -> Iterator[Callable[[Any], None]]:
    """Puts choreo's filters on Celery's loggers, as a worker does."""
    loggers = [logging.getLogger(name) for name in ("celery.worker.strategy", "celery.app.trace")]
    before = [logger.filters[:] for logger in loggers]
    logs.told("")  # another test may have failed with the same event, without the filter that takes note
    yield logs.install
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters = filters


@pytest.mark.parametrize("way", ["short", "celerys"])
@pytest.mark.parametrize(
    ("error", "retries", "line"),
    [
        (None, 0, "INFO choreo.runs"),
        (OSError("the gateway is down"), 0, "WARNING choreo.runs"),
        (OSError("the gateway is down"), 2, "ERROR choreo.delivery.notice"),
        (PermanentFailure("refused"), 0, "ERROR choreo.delivery.notice"),
        (SystemExit(3), 2, "ERROR choreo.delivery.notice"),
    ],
)
def test_at_info_each_run_is_one_line_and_no_traceback(
    installed: Any, way: str, error: Any, retries: int, line: str, caplog: pytest.LogCaptureFixture
):
    def behave() -> None:
        if error is not None:
            raise error

    with caplog.at_level(logging.INFO), caplog.at_level(logging.INFO, "celery"):
        bench = Bench(behave=behave)
        installed(bench.stage.app)
        bench.deliver(getattr(bench, way), retries=retries)

    assert bench.task.has_short_tracer
    assert [f"{record.levelname} {record.name}" for record in caplog.records] == [line]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("way", ["short", "celerys"])
def test_a_copy_that_is_given_back_is_one_error_with_its_traceback(
    installed: Any, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    with caplog.at_level(logging.INFO), caplog.at_level(logging.INFO, "celery"):
        bench = Bench()
        installed(bench.stage.app)
        monkeypatch.setattr(bench.stage.store, "begin", None)
        bench.deliver(getattr(bench, way))

    assert [f"{record.levelname} {record.name}" for record in caplog.records] == ["ERROR choreo.worker.handler"]
    assert caplog.text.count("Traceback") == 1


def test_a_failure_that_only_celery_knows_is_logged_by_celery(installed: Any, caplog: pytest.LogCaptureFixture):
    bench = Bench(behave=PaymentCharged)
    installed(bench.stage.app)
    bench.stage.publisher.send = None  # type: ignore[method-assign]

    bench.deliver(bench.short)

    assert "raised unexpected: TypeError" in caplog.text
    assert caplog.text.count("Traceback") == 1


def test_what_choreo_has_told_of_one_attempt_says_nothing_of_the_next(
    installed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    bench = Bench(behave=PaymentCharged)
    installed(bench.stage.app)
    with monkeypatch.context() as patch:
        patch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
        patch.setattr(bench.stage.store, "begin", None)
        bench.deliver(bench.short)
    bench.stage.publisher.send = None  # type: ignore[method-assign]
    bench.deliver(bench.short)

    assert "raised unexpected: TypeError" in caplog.text


def test_a_pool_of_processes_is_celerys_own_business():
    pool = object.__new__(PreforkPool)
    pool.apply_async = None  # type: ignore[method-assign]

    bench = Bench(lambda *_, **__: pool)

    assert bench.short.__module__ == default.__module__


def test_without_worker_events_nobody_is_told():
    bench = Bench()
    bench.consumer.event_dispatcher = None
    bench.short = strategy(bench.task, bench.stage.app, bench.consumer)

    bench.deliver(bench.short)

    assert bench.events.sent == []
    assert bench.acked == ["e-1"]


@pytest.mark.parametrize(
    ("headers", "why"),
    [({"expires": "2020-01-01T00:00:00+00:00"}, "it has expired"), ({}, "it was revoked")],
)
def test_an_ordinary_task_that_celery_discards_is_a_warning(headers: Any, why: str, caplog: pytest.LogCaptureFixture):
    bench = Bench()
    warn_of_discarded()

    @bench.stage.app.task(name="payment.clean")
    def clean(event: str) -> None:
        pytest.fail("it ran")

    bench.stage.app.tasks["payment.clean"].bind(bench.stage.app)
    state.revoked.add(task_id(identity_of("e-1"), HANDLER))
    bench.deliver(default(bench.stage.app.tasks["payment.clean"], bench.stage.app, bench.consumer), headers=headers)

    assert f"task payment.clean[{task_id(identity_of('e-1'), HANDLER)}] is discarded: {why}" in caplog.text
    assert bench.acked == ["e-1"]
