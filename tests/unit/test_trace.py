"""A handler's task is traced in short, and nobody can tell it from Celery's own way."""

import functools
import json
import logging
import re
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import pytest
from celery import Task, current_task, signals, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.loaders.app import AppLoader
from celery.utils import threads
from greenlet import greenlet

from choreo import PermanentFailure, Retry
from choreo.broker.queue import run_headers
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.fast import tracer as short
from tests.unit.events import OrderPlaced, envelope, identity_of
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)
HANDLER = "payment.charge"


class Bench:
    """A task, as a worker prepares it, traced in short and by Celery."""

    def __init__(self, behave: Callable[[], Any] = lambda: None, **app_options: Any) -> None:
        app = service("payment", **app_options)

        @app.on(OrderPlaced, retry=Retry(times=2))
        def charge(order: OrderPlaced):
            return behave()

        self.stage = Stage(app)
        self.task = app.tasks[HANDLER]
        self.celerys = self.built(self.task)
        self.task.__trace__ = self.celerys

    def built(self, task: Any) -> Any:
        """Celery's tracer, as it is now."""
        return build_tracer(HANDLER, task, app=self.stage.app, hostname="payment@here")

    def run(self, trace: Any = None, unit: str = "e-1", retries: int = 0, **wishes: Any) -> Any:
        event = envelope(ORDER, id=unit)
        request = run_headers(HANDLER, event, retries) | {"delivery_info": {}, "properties": {}, "headers": {}}
        return (trace or self.task.__trace__)(request["id"], [text_of(event)], {}, request | wishes)


def text_of(event: Envelope) -> str:
    return json.dumps(event.to_wire())


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `celery worker` logs unless it is told otherwise."""
    for signal in (signals.task_prerun, signals.task_postrun, signals.task_success):
        monkeypatch.setattr(signal, "receivers", [])  # other tests may have some
    with caplog.at_level(logging.WARNING, "celery.app.trace"):
        yield


def listening(signal: Any, heard: list[dict[str, Any]]) -> Any:
    def hear(**facts: Any) -> None:
        heard.append(facts)

    signal.connect(hear, weak=False)
    return hear


def places(facts: dict[str, Any]) -> list[str]:
    """The functions in the traceback of a failure."""
    return re.findall(r"line \d+, in (\w+)", facts["einfo"].traceback)


def test_a_success_is_told_as_celery_tells_it():
    bench = Bench()

    short, celerys = bench.run(unit="e-1"), bench.run(bench.celerys, unit="e-2")

    assert bench.task.__trace__ is not bench.celerys
    assert (short.retval, short.info, short.retstr) == (celerys.retval, celerys.info, celerys.retstr)
    assert short.retstr == "'done'"
    assert 0 <= short.runtime < 60


def test_a_handler_finds_the_same_request_as_with_celery():
    seen: list[dict[str, Any]] = []
    bench = Bench(lambda: seen.append({**vars(current_task.request), "task": current_task.name}))

    bench.run(unit="e-1")
    bench.run(bench.celerys, unit="e-2")

    short, celerys = seen
    assert short["task"] == HANDLER
    assert short["id"] != celerys["id"]
    assert short.keys() == celerys.keys() - {"_protected"}
    assert not current_task, "nothing is left on the stack"
    assert bench.task.request.id is None


@pytest.mark.parametrize(
    ("error", "retries", "state"),
    [
        (OSError("the gateway is down"), 0, states.RETRY),
        (OSError("the gateway is down"), 2, states.FAILURE),
        (PermanentFailure("refused"), 0, states.FAILURE),
        (SystemExit(3), 2, states.FAILURE),
    ],
)
def test_a_failure_is_told_by_celery(error: BaseException, retries: int, state: str):
    def fail() -> None:
        raise copy(error)

    bench = Bench(fail)
    heard: list[dict[str, Any]] = []
    signal = signals.task_retry if state == states.RETRY else signals.task_failure
    hear = listening(signal, heard)
    try:
        short = bench.run(unit="e-1", retries=retries)
        celerys = bench.run(bench.celerys, unit="e-2", retries=retries)
    finally:
        signal.disconnect(hear)

    assert short.info.state == celerys.info.state == state
    assert type(short.info.retval) is type(celerys.info.retval)
    assert len(heard) == 2
    if state == states.FAILURE:
        assert heard[0]["task_id"] == task_id(identity_of("e-1"), HANDLER)
        assert heard[0]["args"][0] == text_of(envelope(ORDER, id="e-1"))
        assert places(heard[0]) == places(heard[1])
    assert not current_task


def test_a_copy_that_is_given_back_is_rejected_as_with_celery(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    monkeypatch.setattr(bench.stage.store, "begin", None)

    short, celerys = bench.run(unit="e-1"), bench.run(bench.celerys, unit="e-2")

    assert short.info.state == celerys.info.state == states.REJECTED
    assert short.info.retval.requeue is celerys.info.retval.requeue is True


@pytest.mark.parametrize("signal", [signals.task_prerun, signals.task_postrun, signals.task_success])
def test_who_listens_to_celerys_signals_hears_of_every_run(signal: Any):
    bench = Bench()
    heard: list[dict[str, Any]] = []
    hear = listening(signal, heard)
    try:
        bench.run()
    finally:
        signal.disconnect(hear)

    (facts,) = heard
    assert facts["sender"] is bench.task


def test_at_debug_celery_logs_every_run(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, "celery.app.trace"):
        bench = Bench()

        bench.run()

    assert "succeeded in" in caplog.text


def test_at_info_a_run_is_traced_in_short_and_choreo_logs_it(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        bench = Bench()
        bench.run()

    assert bench.task.has_short_tracer
    assert [record.name for record in caplog.records] == ["choreo.runs"]


@pytest.mark.parametrize("hook", ["__call__", "before_start", "on_success", "after_return"])
def test_what_somebody_adds_to_the_task_is_called(hook: str, monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    monkeypatch.setattr(type(bench.task), hook, print, raising=False)

    bench.task.__trace__ = celerys = bench.built(bench.task)

    assert bench.task.__trace__ is celerys


def test_who_wraps_celerys_tracer_is_part_of_every_run():
    bench = Bench()
    measured: list[str] = []

    @functools.wraps(bench.celerys)
    def measuring(uuid: str, *args: Any, **kwargs: Any) -> Any:
        measured.append(uuid)
        return bench.celerys(uuid, *args, **kwargs)

    bench.task.__trace__ = measuring
    bench.run()

    assert measured == [task_id(identity_of("e-1"), HANDLER)]


def test_who_has_the_tracer_built_for_a_wrapped_task_is_part_of_every_run():
    bench = Bench()
    measured: list[str] = []

    class Measuring:
        """As New Relic does it: looks like the task, and times its runs."""

        __class__ = type(bench.task)

        def __getattr__(self, name: str) -> Any:
            return getattr(bench.task, name)

        def __call__(self, *args: Any) -> Any:
            # Celery calls this one, once some other test has prepared Celery's tasks for a worker.
            return self.run(*args)

        def run(self, *args: Any) -> Any:
            measured.append(args[0])
            return bench.task.run(*args)

    bench.task.__trace__ = bench.built(Measuring())
    bench.run()

    assert measured == [text_of(envelope(ORDER, id="e-1"))]


def test_who_patches_every_task_of_the_program_is_part_of_every_run(monkeypatch: pytest.MonkeyPatch):
    began: list[str] = []

    def before_start(self: Any, unit: str, args: Any, kwargs: Any) -> None:
        began.append(unit)

    before_start.__module__ = "somebody.elses"
    monkeypatch.setattr(Task, "before_start", before_start)
    bench = Bench()

    bench.run()

    assert began == [task_id(identity_of("e-1"), HANDLER)]


@pytest.mark.parametrize("wish", ["callbacks", "chain"])
def test_what_somebody_wants_to_follow_upon_a_run_follows(wish: str, monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    app = bench.stage.app
    sent: list[str] = []
    monkeypatch.setattr(
        type(app.amqp), "_retry_publish", lambda _, apply, *_args, **_options: sent.append(apply.__self__.task)
    )

    bench.run(**{wish: [app.signature("payment.thank")]})

    assert sent == ["payment.thank"]


def test_who_waits_for_the_result_of_a_run_gets_it(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    done: list[str] = []
    monkeypatch.setattr(bench.task.backend, "mark_as_done", lambda unit, *_: done.append(unit))

    bench.run(ignore_result=False)

    assert done == [task_id(identity_of("e-1"), HANDLER)]


def test_a_handler_that_fails_runs_once():
    ran: list[int] = []
    bench = Bench(lambda: ran.append(1) or 1 / 0)

    bench.run(retries=2)

    assert ran == [1]


@pytest.mark.parametrize("hook", ["on_task_init", "on_process_cleanup"])
def test_what_somebody_adds_to_the_loader_is_called(hook: str):
    loader = type("OwnLoader", (AppLoader,), {hook: print})

    bench = Bench(loader=loader)

    assert bench.task.__trace__ is bench.celerys


@pytest.mark.parametrize("here_again", [True, False])
@pytest.mark.parametrize("kind", [threads._LocalStack, threads._FastLocalStack])
def test_between_two_runs_no_task_is_the_current_one(kind: Any, here_again: bool, monkeypatch: pytest.MonkeyPatch):
    stack, seen = kind(), []
    bench = Bench(lambda: seen.append(stack.top))
    monkeypatch.setattr(short, "_task_stack", stack)
    monkeypatch.setattr(type(bench.task), "request_stack", kind())

    for unit in ("e-1", "e-2"):
        request = Context(run_headers(HANDLER, envelope(ORDER, id=unit), 0) | {"properties": {}})
        answer = short.attempt(bench.task, request, [text_of(envelope(ORDER, id=unit))], {}, here_again=here_again)
        assert answer == ("done", None)
        assert stack.top is None
        assert bench.task.request_stack.top is None
    stack.push("another")
    assert stack.top == "another"
    stack.pop()

    assert seen == [bench.task] * 2
    assert stack.top is None
    assert len(stack) == 0


def test_a_greenlet_that_runs_a_handler_leaves_nothing_behind():
    bench, numbers = Bench(), iter(range(20))
    kept = _task_stack._local.__storage__
    before = len(kept)

    for _ in range(20):
        greenlet(lambda: bench.run(unit=f"e-{next(numbers)}")).switch()

    assert next(numbers, None) is None
    assert len(kept) == before
