"""Waterfalls: a trace along an axis of time. And the list of recent stories."""

from datetime import timedelta
from itertools import pairwise

import pytest

from choreo.observe.cause import Cause, Weight
from choreo.observe.evidence import KnownEvent
from choreo.observe.recent import recent_stories
from choreo.observe.trace import Line, Step, Trace
from choreo.observe.waterfall import Axis, Cut, State, Waterfall, waterfall
from choreo.store.runs import Result, Run
from tests.unit.test_trace import Operator, service

DONE = Cause("done", "done", (), Weight.DONE)


@pytest.fixture
def operator():
    found = Operator()
    yield found
    found.stage.__exit__(None, None, None)


def told(shown: Waterfall) -> dict[str, tuple[State, float, float, float]]:
    """The label of each bar, and what it shows."""
    return {
        bar.step.handler if bar.step else bar.line.event.type: (bar.state, bar.since, bar.start, bar.until)
        for bar in shown.bars
    }


def test_a_trace_becomes_bars_in_the_order_of_its_lines(operator: Operator):
    operator.placed("ORD-1")
    trace = operator.trace("ORD-1")

    shown = waterfall(trace)

    bars = told(shown)
    assert bars["order.placed"][0] is State.EVENT
    # The time of an announced event is worked out from that of its run, so one may seem to be earlier than its cause.
    assert bars["order.placed"][1:] == pytest.approx((0.0, 0.0, 0.0), abs=0.5)
    assert bars["payment.charge"][0] is State.DONE
    assert bars["driver.send"][0] is State.DONE
    assert [bar.line.event.id for bar in shown.bars if bar.step is None] == [
        line.event.id for line in trace.lines if line.step is None
    ]


def test_what_is_open_lasts_until_now(operator: Operator):
    operator.placed("ORD-quiet")
    operator.stage.advance(timedelta(minutes=10))

    shown = waterfall(operator.trace("ORD-quiet"))

    state, since, start, until = told(shown)["driver.assign"]
    assert state is State.WAITING
    assert since == pytest.approx(0, abs=1)
    assert start == until == pytest.approx(600, abs=1)
    assert [bar.is_open for bar in shown.bars if bar.step and bar.step.handler == "driver.assign"] == [True]


def test_each_attempt_has_a_bar_and_the_next_one_waits_after_the_last(operator: Operator):
    operator.placed("ORD-later")
    operator.stage.advance(timedelta(minutes=5))

    bars = [
        bar
        for bar in waterfall(operator.trace("ORD-later")).bars
        if bar.step is not None and bar.step.handler == "payment.charge"
    ]

    assert [bar.state for bar in bars] == [State.FAILED, State.WAITING]
    assert bars[1].since == bars[0].until
    assert bars[1].until - bars[1].since == pytest.approx(300, abs=1)


def test_a_dead_letter_is_told_once(operator: Operator):
    operator.placed("ORD-frozen")

    bars = waterfall(operator.trace("ORD-frozen")).bars

    assert [bar.state for bar in bars if bar.step and bar.step.handler == "payment.charge"] == [State.DEAD]


def test_a_part_of_a_join_waits_for_the_last_one(operator: Operator):
    operator.placed("ORD-1")

    parts = [bar for bar in waterfall(operator.trace("ORD-1")).bars if bar.state is State.PART]

    assert [bar.step.handler for bar in parts if bar.step] == ["driver.assign"]


def test_a_story_of_which_only_an_id_is_known_is_drawn_too():
    axis = Axis(0.0)

    assert axis.place(5) == 0.0
    assert axis.marks() == [(0.0, "0")]


def test_an_axis_is_in_proportion():
    axis = Axis(10.0)

    assert axis.place(5.0) == pytest.approx(0.5)
    assert axis.place(20.0) == pytest.approx(1.0)
    assert axis.place(-1.0) == 0.0
    assert [text for _, text in axis.marks()] == ["0", "2.0 s", "4.0 s", "6.0 s", "8.0 s", "10 s"]


def test_a_cut_takes_little_room_and_what_is_around_it_stays_in_proportion():
    axis = Axis(3602.0, [Cut(1.0, 3601.0)])

    assert axis.place(1.0) == pytest.approx(0.47)
    assert axis.place(3601.0) == pytest.approx(0.53)
    assert axis.place(0.5) == pytest.approx(0.235)
    assert axis.place(3601.5) == pytest.approx(0.765)
    places = [axis.place(moment) for moment in (0, 0.2, 1, 100, 3600, 3601, 3601.9, 3602)]
    assert places == sorted(places)
    assert places[-1] == pytest.approx(1.0)


def test_the_marks_of_an_axis_do_not_touch():
    for length in (0.003, 0.9, 61.0, 3602.0, 1e6):
        marks = Axis(length, [Cut(length / 10, length * 0.9)]).marks()

        assert len(marks) >= 2
        assert all(after - before >= 0.13 for (before, _), (after, _) in pairwise(marks))
        assert len({text for _, text in marks}) == len(marks)


@pytest.mark.parametrize(("pause", "cuts"), [(3600.0, [Cut(1.0, 3600.0)]), (3.0, [])])
def test_a_long_time_in_which_nothing_happens_is_cut_out(pause: float, cuts: list[Cut]):
    event = KnownEvent("1", "order.placed", at=1000.0)
    runs = [run("1", 1001.0, took=1.0), run("1", 1001.0 + pause, took=1.0)]
    trace = Trace("ORD-1", "subject", "1", 9000.0, [Line(0, event, Step("payment.charge", event, runs))], DONE)

    assert waterfall(trace).axis.cuts == cuts


def run(story: str, at: float, **about) -> Run:
    known = {"event": story, "subject": f"ORD-{story}", "type": "order.placed", "attempt": 1, "result": Result.DONE}
    return Run(story=story, at=at, handler="payment.charge", **{**known, **about})


def test_recent_stories_come_newest_first_each_once():
    runs = [
        run("a", 1.0),
        run("b", 2.0, result=Result.RETRY),
        run("b", 3.0, event="b2", subject="OTHER", type="order.paid", result=Result.DEAD, detail="17 it failed"),
        run("c", 0.5),
    ]

    newest, older = recent_stories(runs, 2)

    assert (newest.story, newest.subject, newest.at) == ("b", "ORD-b", 3.0)
    assert (newest.types, newest.runs, newest.failed) == (["order.placed", "order.paid"], 2, 2)
    assert newest.dead == ["payment.charge"]
    assert (older.story, older.failed, older.dead) == ("a", 0, [])


def test_the_observer_tells_recent_stories(operator: Operator):
    operator.placed("ORD-1")
    operator.stage.advance(timedelta(minutes=1))
    operator.placed("ORD-2")

    assert [story.subject for story in operator.app.observe.recent()] == ["ORD-2", "ORD-1"]
    assert [story.subject for story in operator.app.observe.recent(seconds=30)] == ["ORD-2"]
    assert service("nobody").observe.recent() == []
