"""The page Flow, its history of an hour, and the lines that it draws."""

import math
from datetime import UTC, datetime

import pytest

from choreo import PermanentFailure, Service
from choreo.broker.depths import Depth
from choreo.errors import StoreError
from choreo.observe.handlers import HandlerState
from choreo.observe.overview import Overview
from choreo.observe.top import Top
from choreo.store.runs import Recording, Result, Run
from choreo.web import sparkline, watch
from choreo.web.flow import MOST
from choreo.web.history import MOST_HANDLERS, STEP, STEPS, History, Series
from choreo.web.site import Site
from choreo.web.watch import told_since
from tests.unit.browser import Answer, Browser
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service
from tests.unit.test_top import Queues, watched

NOW = 100 * STEP * STEPS
NAME = "payment.charge"


@pytest.fixture
def app() -> Service:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        if order.total_cents == 13:
            raise PermanentFailure("<b>refused</b>")

    return app


@pytest.fixture
def queues() -> Queues:
    return Queues()


@pytest.fixture
def stage(app: Service, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return watched(app, queues, monkeypatch)


def flow(app: Service, **query: str) -> Answer:
    return Browser(Site(app)).get("/flow", **query)


def test_what_waits_for_a_handler_without_a_worker_is_a_trouble(app, stage, queues):
    queues.depths[NAME] = Depth(12_345, first=stage.store.now() - 60, subject="ORD-1")

    shown = flow(app)

    assert "payment.charge: no worker of payment lives" in shown.words
    assert "12k" in shown.words
    assert "60s" in shown.words


def test_all_is_well(app, stage):
    assert "All well" in flow(app).words


def test_dead_letters_are_counted_and_lead_to_their_page(app, stage):
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=13))

    shown = flow(app)

    assert "/dead-letters?handler=payment.charge" in shown.links
    assert "new dead letters" in shown.words


def test_what_an_error_says_is_no_part_of_the_page(app, stage):
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=13))

    shown = flow(app)

    assert "<b>refused" not in shown.text
    assert "&lt;b&gt;refused" in shown.text


def test_handlers_are_found_by_a_part_of_their_name(app, stage):
    assert NAME in flow(app, q="charge").words
    assert "No handler has <i>nothing</i> in its name" in flow(app, q="<i>nothing</i>").words


def test_the_page_is_bounded(app, monkeypatch):
    states = [HandlerState(f"payment.h{number}") for number in range(MOST + 50)]
    monkeypatch.setattr(Top, "look", lambda _: Overview(datetime.now(UTC), "", states))

    shown = flow(app)

    assert shown.text.count('<th scope="row">') == MOST
    assert "And 50 more handlers" in shown.words


def test_a_store_that_is_away_is_said_and_the_page_comes_back(app, stage, monkeypatch):
    def away(*_):
        raise StoreError("Connection refused")

    asked = Browser(Site(app))
    with monkeypatch.context() as patch:
        patch.setattr(Top, "look", away)
        assert asked.get("/flow").status == 503

    assert asked.get("/flow").status == 200


def test_the_last_state_stays_while_the_store_is_away_and_is_called_old(app, stage, monkeypatch):
    asked = Browser(Site(app))
    asked.get("/flow")
    monkeypatch.setattr(Top, "look", lambda *_: (_ for _ in ()).throw(StoreError("Connection refused")))

    asked.site.watch._daemon._take_turn()
    shown = asked.get("/flow")

    assert shown.status == 200
    assert "Old" in shown.words
    assert "Connection refused" in shown.words


def test_the_page_asks_nobody_once_the_watch_has_looked(app, stage, monkeypatch):
    asked = Browser(Site(app))
    asked.get("/flow")

    def refuse(*_):
        raise AssertionError("it asked")

    monkeypatch.setattr(Top, "look", refuse)
    assert asked.get("/flow").status == 200


# -- one handler ---------------------------------------------------------------------------------------------------


@pytest.fixture
def operator(app: Service, stage: Stage) -> Browser:
    browser = Browser(Site(app, allows_changes=True))
    browser.get(f"/flow/{NAME}")
    return browser


def test_a_handler_has_a_page_of_its_own(app, stage, queues):
    queues.depths[NAME] = Depth(7, first=stage.store.now() - 60, subject="ORD-1")

    shown = Browser(Site(app)).get(f"/flow/{NAME}")

    assert "the oldest waits: ORD-1" in shown.words
    assert f"choreo pause {NAME}" in shown.words, "the way of pages that only read"
    assert "<form" not in shown.text


def test_a_handler_that_nobody_knows_is_404(app, stage):
    shown = Browser(Site(app)).get("/flow/payment.chrage")

    assert shown.status == 404
    assert "payment.chrage" in shown.words


def test_a_handler_is_paused_and_resumed_by_its_page(operator, app, stage):
    told = operator.follow(operator.post(f"/flow/{NAME}", {"for": "600", "rate": "", "reason": "gateway down"}))

    pause = app.pauses.get(NAME)
    assert pause.is_stop
    assert pause.reason == "gateway down"
    assert pause.by.endswith("(web)")
    assert (pause.until - pause.since).total_seconds() == 600
    assert f"{NAME} is paused." in told.words
    assert "gateway down" in told.words
    assert "paused" in operator.get("/flow").words, "also on the page of all, without waiting for the next look"

    operator.follow(operator.post(f"/flow/{NAME}", {"do": "resume", "reason": "it is back"}))

    assert app.pauses.get(NAME) is None
    assert [repair.action for repair in app.repairs.recent()] == ["resumed", "paused"]


def test_a_handler_is_slowed_down(operator, app):
    operator.post(f"/flow/{NAME}", {"rate": "10/m", "reason": "careful"})

    assert app.pauses.get(NAME).rate == 10 / 60


@pytest.mark.parametrize("form", [{"rate": "fast", "reason": "x"}, {"rate": "5/s", "reason": ""}])
def test_what_a_pause_cannot_be_is_refused_in_words(operator, app, form):
    answer = operator.post(f"/flow/{NAME}", form)

    assert answer.status == 400
    assert "5/s" in answer.words or "Say why" in answer.words
    assert app.pauses.get(NAME) is None


def test_pages_that_only_read_pause_nothing(app, stage):
    browser = Browser(Site(app))
    browser.get(f"/flow/{NAME}")

    assert browser.post(f"/flow/{NAME}", {"reason": "x"}).status == 403
    assert app.pauses.get(NAME) is None


# -- the history ---------------------------------------------------------------------------------------------------


def seen(waiting: int | None = None, outgoing: float | None = None, name: str = NAME) -> HandlerState:
    return HandlerState(name, waiting=waiting, outgoing=outgoing)


def run(at: float, story: str = "s") -> Run:
    return Run("e", story, "ORD-1", "order.placed", 1, Result.DONE, at=at)


def test_the_most_of_a_step_is_kept():
    history = History()
    for waiting in (3, 9, 4):
        history.note(NOW, [seen(waiting)])
    history.note(NOW + STEP, [seen(1)])

    assert list(history.waiting(NAME).values)[-3:] == [None, 9, 1]


def test_the_rate_of_a_step_is_the_mean():
    history = History()
    history.note(NOW, [seen(outgoing=1.0)])
    history.note(NOW + 1, [seen(outgoing=2.0)])

    assert history.rate(NAME).values[-1] == 1.5


def test_nothing_is_older_than_an_hour():
    history = History()
    for step in range(3 * STEPS):
        history.note(NOW + step * STEP, [seen(step)])

    assert len(history.waiting(NAME).values) == STEPS
    assert history.waiting(NAME).values[0] == 2 * STEPS
    assert len(history._steps[NAME]) <= STEPS + 1


def test_a_handler_that_is_gone_for_an_hour_is_forgotten():
    history = History()
    history.note(NOW, [seen(1, name="old.one")])
    history.note(NOW + 2 * STEPS * STEP, [seen(1)])

    assert list(history._steps) == [NAME]


def test_the_number_of_handlers_is_bounded():
    history = History()
    history.note(NOW, [seen(1, name=f"a.h{number}") for number in range(MOST_HANDLERS + 10)])

    assert len(history._steps) == MOST_HANDLERS


def test_the_record_tells_of_the_time_before_the_first_look():
    history = History()
    history.note(NOW, [seen(outgoing=1.0)])
    history.recall(NAME, [run(NOW - 2 * STEP)] * 15)

    assert list(history.rate(NAME).values)[-4:] == [0.0, 15 / STEP, 0.0, 1.0]


def test_a_record_that_does_not_go_back_so_far_tells_nothing_of_it():
    history = History()
    history.note(NOW, [seen(outgoing=1.0)])
    history.recall(NAME, [run(NOW - 2 * STEP)], since=NOW - 2 * STEP)

    assert list(history.rate(NAME).values)[-4:] == [None, None, 0.0, 1.0]


def test_a_sample_of_stories_stands_for_all():
    history = History()
    history.note(NOW, [seen()])
    history.recall(NAME, [run(NOW - STEP)] * 3, sample=0.1)

    assert math.isclose(history.rate(NAME).values[-2], 1.0)


def test_a_full_list_of_the_record_bounds_how_far_it_tells():
    each = watch.MOST_RUNS // 32
    busy = [run(1000.0 + number) for number in range(each)]

    assert told_since(busy[1:], Recording()) == 0.0
    assert told_since(busy, Recording()) == 1000.0
    assert told_since([run(7.0)] * 2, Recording(length=64)) == 7.0


def test_the_watch_reads_the_record_when_it_first_looks(app, stage):
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=5))
    stage.wait(10 * STEP)
    asked = Site(app)

    asked.watch.look()

    assert max(value or 0 for value in asked.watch.history.rate(NAME).values) == 1 / STEP


# -- its lines -----------------------------------------------------------------------------------------------------


def test_a_line_has_a_gap_where_nothing_is_known():
    drawn = sparkline.line(Series([1.0, None, 2.0, 2.0]))

    assert drawn.count("M") == 2


def test_a_line_stays_in_its_box():
    drawn = sparkline.line(Series([0.0, 1e9, 0.5, 3.0]))

    points = [tuple(map(float, point.split())) for point in drawn[1:].split("L")]
    assert all(0 <= x <= sparkline.WIDTH and 0 <= y <= sparkline.HEIGHT for x, y in points)
    assert points[2][1] < points[0][1], "more is higher"


def test_nothing_known_is_no_line():
    assert sparkline.line(Series([None] * 5)) == sparkline.area(Series([None] * 5)) == ""
