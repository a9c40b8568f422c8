"""The benchmark's arithmetic and its tables; what it measures is not tested here."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import figures, plot, report, session, table
from bench.__main__ import _options, plan
from bench.brokers import redis_broker
from bench.marks import Gate, Marks, Tally
from bench.results import Journal, Result
from bench.side import find
from choreo.local.server import NoServerError


def result(side: str, repetition: int = 0, *, scenario: str = "drain", rate: float = 100.0, **more: object) -> Result:
    return Result(scenario, side, repetition, figures={"per_second": rate}, expected=400, **more)


def test_a_percentile_is_a_value_that_was_measured():
    values = [float(value) for value in range(1, 101)]

    assert figures.percentile(values, 0.5) == 50.0
    assert figures.percentile(reversed(values), 0.99) == 99.0
    assert figures.percentile([7.0], 0.99) == 7.0
    assert figures.percentile(values, 1) == 100.0


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_a_percentile_of_nothing_is_refused(values: list[float], share: float):
    with pytest.raises(ValueError, match="no "):
        figures.percentile(values, share)


def test_ratios_are_taken_within_a_repetition():
    assert figures.ratios({0: 100.0, 1: 50.0, 2: 80.0}, {0: 50.0, 1: 25.0}) == [2.0, 2.0]
    assert figures.ratios({0: 100.0}, {0: 0.0}) == []


def test_costs_measures_choreo_with_and_without_a_feature_side_by_side():
    steps = plan(_options(["--costs", "--repetitions", "2"]))

    first = [step.side for step in steps[:3]]
    assert [side.name for side in first] == [
        "choreo/redis/solo",
        "choreo-unrecorded/redis/solo",
        "choreo-info/redis/solo",
    ]
    assert [side.settings for side in first] == [{}, {"choreo_record_length": 0}, {}]
    assert [side.worker_command("payment")[-1] for side in first] == ["WARNING", "WARNING", "INFO"]
    assert {step.side.name for step in steps if step.kind == "memory"} == {side.name for side in first}
    assert len([step for step in steps if step.side.name == "choreo-unrecorded/rabbitmq/solo"]) == 2


def test_the_spread_is_relative_to_the_median():
    assert figures.spread([90.0, 100.0, 110.0]) == pytest.approx(0.2)
    assert figures.spread([100.0]) is None


def test_marks_tell_lost_from_repeated(tmp_path: Path):
    marks = Marks(tmp_path, "payment.view", 10, create=True)
    other = Marks(tmp_path, "payment.view", 10)

    for number in (2, 3, 3, 5):
        other.mark(number)

    assert marks.tally(2, 4) == Tally(expected=4, lost=1, repeated=1)
    assert marks.handled(2, 4) == 3
    assert [bool(when) for when in marks.times(2, 4)] == [True, True, False, True]


def test_an_event_that_is_handled_very_often_does_not_break_its_counter(tmp_path: Path):
    marks = Marks(tmp_path, "payment.view", 1, create=True)

    for _ in range(300):
        marks.mark(0)

    assert marks.tally(0, 1).repeated == 1


def test_nobody_waits_at_an_open_gate(tmp_path: Path):
    gate = Gate(tmp_path, create=True)

    gate.pass_through(3)

    assert gate.waiting() == 0


def test_a_run_that_lost_events_has_no_figure():
    rendered = table.tables([result("choreo/redis/solo"), result("topic/redis/solo", lost=3, rate=1e6)])

    assert "| topic/redis/solo | **lost 3 of 400** |" in rendered
    assert "1,000,000" not in rendered


def test_a_repetition_is_a_fault_only_where_once_is_promised():
    assert result("choreo/redis/solo", repeated=1, once=True).fault == "repeated 1 of 400"
    assert result("hand/redis/solo", repeated=1).fault == ""
    assert "2 repeated" in table.tables([result("hand/redis/solo", repeated=2)])


def test_the_ratio_is_to_choreo_on_the_same_broker_and_pool():
    measured = [
        result("choreo/redis/solo", rate=100.0),
        result("choreo/redis/threads", rate=400.0),
        result("hand/redis/threads", rate=100.0),
        result("chord/redis/prefork", rate=10.0),
    ]

    found = table.Figures(measured)

    assert found.ratio("drain", "hand/redis/threads", "per_second") == 4.0
    assert found.ratio("drain", "chord/redis/prefork", "per_second") == 10.0
    assert "**4.0**" in table.tables(measured)


def test_where_less_is_better_the_ratio_is_turned_round():
    found = table.Figures([result("choreo/redis/solo", rate=50.0), result("hand/redis/solo", rate=200.0)])

    assert found.ratio("drain", "hand/redis/solo", "per_second", less_is_better=True) == 4.0


def test_the_plot_says_why_a_side_has_no_bar():
    found = table.Figures([result("choreo/redis/solo", rate=50.0), result("topic/redis/solo", lost=1)])

    drawn = plot.draw(plot.panels(found), "a < machine")

    assert "lost 1 of 400" in drawn
    assert "a &lt; machine" in drawn


def test_a_journal_survives_a_line_that_was_cut_off(tmp_path: Path):
    journal = Journal(tmp_path / "run.jsonl")
    journal.path.write_text('{"facts": {"cores": 2}}\n')
    journal.add(result("choreo/redis/solo"))
    with journal.path.open("a") as file:
        file.write('{"scenario": "dr')

    assert journal.facts() == {"cores": 2}
    assert journal.results() == [result("choreo/redis/solo")]


def test_the_report_replaces_only_what_is_between_its_markers():
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter"

    written = report.replace(page, "new")

    assert written == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter"
    assert report.replace(written, "new") == written
    with pytest.raises(SystemExit, match="markers"):
        report.replace("no markers", "new")


def test_the_readme_has_its_markers():
    report.replace((report.FOLDER / "README.md").read_text(), "new")


def test_repetitions_are_interleaved():
    sides = [step.side.name for step in plan(_options(["--only", "choreo/redis/solo", "--only", "hand/redis/solo"]))]

    assert sides == ["choreo/redis/solo", "hand/redis/solo"] * 3


def test_the_smallest_scenario_runs_and_counts_its_events():
    size = session.Size(seconds=0.2, most=50, others=(2,))
    try:
        with redis_broker(None) as redis:
            rows = list(session.run(replace(find("choreo/redis/solo"), phases=("publish",)), redis, redis, size))
    except NoServerError as error:
        pytest.skip(str(error))

    assert [row.problem for row in rows] == ["", ""]
    assert [row.scenario for row in rows] == ["publish to 1 queue", "publish past 2 queues"]
    assert all(row.tally.lost == row.tally.repeated == 0 < row.tally.expected for row in rows)
    assert all(row.figures["cpu_us"] > 0 for row in rows)
