"""`app.pauses`: pausing by the name of a handler or a service."""

from datetime import timedelta

import pytest

from choreo import PauseError, Service
from choreo.operate.pauses import HandlerPauses
from choreo.rates import rate_text
from choreo.store.pauses import Pause
from tests.unit.events import OrderPlaced, PaymentCharged
from tests.unit.stage import Stage, service

CHARGE, REFUND = "payment.charge_customer", "payment.refund"


def make_service() -> Service:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge_customer(order: OrderPlaced) -> None: ...

    @app.on(PaymentCharged)
    def refund(charged: PaymentCharged) -> None: ...

    return app


@pytest.fixture
def app() -> Service:
    return Stage(make_service()).app


def test_a_handler_is_paused_by_its_name_and_all_of_a_service_by_its(app):
    (done,) = app.pauses.pause(CHARGE, timedelta(minutes=30), reason="gateway down", who="alice@host")

    assert (done.pause.handler, done.pause.reason, done.pause.by) == (CHARGE, "gateway down", "alice@host")
    assert done.pause.until - done.pause.since == timedelta(minutes=30)
    assert app.pauses.get(CHARGE) == done.pause
    assert app.pauses.get(REFUND) is None

    both = app.pauses.pause("payment", rate="10/m")

    assert [(one.pause.handler, one.before is not None) for one in both] == [(CHARGE, True), (REFUND, False)]
    assert len({one.pause.id for one in both}) == 2
    assert [pause.rate for pause in app.pauses] == [10 / 60] * 2
    assert app.pauses.find(REFUND) == [both[1].pause]
    assert app.pauses.resume("payment") == [one.pause for one in both]
    assert app.pauses.resume(CHARGE) == []
    assert list(app.pauses) == []


def test_the_one_who_pauses_is_the_user_of_this_process(app, monkeypatch):
    monkeypatch.setattr("choreo.operate.repairs.getuser", lambda: "alice")
    monkeypatch.setattr("choreo.operate.repairs.gethostname", lambda: "shop-1")

    assert app.pauses.pause(CHARGE)[0].pause.by == "alice@shop-1"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("payment.charge_custmer", "Did you mean payment.charge_customer"),
        ("charge_customer", "Did you mean payment.charge_customer?"),
        ("paymnt", "Did you mean payment"),
        ("zzz", "Known are: payment, payment.charge_customer, payment.refund."),
        ("", "Known are"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_those_that_are_like_it(app, name, hint):
    for call in (app.pauses.pause, app.pauses.resume, app.pauses.find):
        with pytest.raises(PauseError, match=f"named {name!r}") as refused:
            call(name)
        assert hint in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration": 0.5},
        {"duration": -1},
        {"duration": float("nan")},
        {"duration": timedelta(days=40_000)},
        {"duration": "30m"},
        {"duration": True},
        {"rate": 0},
        {"rate": "0/s"},
        {"rate": -1},
        {"rate": float("inf")},
        {"rate": "5 per second"},
        {"rate": "20000/s"},
        {"rate": "1/h"},
        {"rate": True},
        {"reason": "x" * 501},
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name_and_nothing_is_paused(app, wrong):
    ((_, value),) = wrong.items()
    with pytest.raises(PauseError) as refused:
        app.pauses.pause(CHARGE, **wrong)

    assert repr(value) in str(refused.value) or "501 characters" in str(refused.value)
    assert list(app.pauses) == []


def test_the_workers_of_the_service_are_woken_after_the_change(app):
    seen: list[tuple[object, ...]] = []
    pauses = HandlerPauses(
        app.runtime.store,
        app.runtime.undeclared,
        app.runtime,
        app.repairs,
        lambda services: seen.append((*services, len(list(app.pauses)))),
    )

    pauses.pause(CHARGE)
    pauses.resume(CHARGE)

    assert seen == [("payment", 1), ("payment", 0)]


@pytest.mark.parametrize(
    ("rate", "text"),
    [("5/s", "5/s"), (0.5, "30/m"), ("10/m", "10/m"), ("60/h", "1/m"), (100, "100/s"), ("2.5", "2.5/s")],
)
def test_a_rate_is_read_and_shown_as_a_person_writes_it(app, rate, text):
    assert rate_text(app.pauses.pause(CHARGE, rate=rate)[0].pause.rate) == text


def test_a_pause_in_one_line_says_all_of_it_and_cannot_forge_a_second(app):
    (done,) = app.pauses.pause(CHARGE, 60, reason="down\nmore", who="al\x1bice", rate=5)

    line = str(done.pause)

    assert line.startswith(f"{CHARGE} is slowed to 5/s since ")
    assert f"until {done.pause.until:%Y-%m-%d %H:%M:%S} UTC by al\\x1bice: down\\nmore" in line
    assert "\n" not in line
    assert "paused" in str(Pause(CHARGE))


def test_a_pause_and_its_end_are_announced_once_and_logged_as_repairs():
    stage = Stage(make_service())
    app = stage.app

    app.pauses.pause(CHARGE, 60, reason="gateway down", who="alice@a")
    app.pauses.pause(CHARGE, 600, who="alice@a")
    stage.pass_time(61)
    assert stage.types == ["handler.paused", "handler.paused"]

    app.pauses.resume(CHARGE, reason="it is back", who="bob@b")
    stage.pass_time(601)
    assert stage.types == ["handler.paused", "handler.paused", "handler.resumed"]
    app.pauses.pause(CHARGE, 30)
    stage.pass_time(31)
    assert stage.types[-2:] == ["handler.paused", "handler.resumed"]
    assert app.pauses.get(CHARGE) is None

    told = [(one.action, one.target, one.reason, one.who) for one in app.repairs.recent()]
    assert told[1:] == [
        ("resumed", CHARGE, "it is back", "bob@b"),
        ("paused", CHARGE, "", "alice@a"),
        ("paused", CHARGE, "gateway down", "alice@a"),
    ]
