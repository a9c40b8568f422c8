"""The promises of every store: a finished unit runs once more, and no other does."""

import pytest

from choreo.store import Outcome, Settlement, Verdict
from choreo.store.claims import Repeated
from tests.contract.rigs import AGAIN, DONE, HANDLER, arrive, at, buried, claim, due, settle

JOIN = "join:ORD-1"


def finished(store, unit: str = "e-1") -> None:
    store.begin(claim("A", unit))
    assert settle(store, claim("A", unit), DONE) is Outcome.OK


def test_a_finished_unit_runs_once_more(store):
    finished(store)
    assert store.begin(claim("B")).verdict is Verdict.DONE

    assert store.repeat(HANDLER, "e-1", {}, at("rerun:1")) is Repeated.OK

    assert due(store) == ["rerun:1"]
    assert store.begin(claim("B")).verdict is Verdict.RUN
    assert settle(store, claim("B"), DONE) is Outcome.OK
    assert store.begin(claim("C")).verdict is Verdict.DONE


def test_a_unit_that_is_not_known_runs(store):
    assert store.repeat(HANDLER, "e-1", {}, at("rerun:1")) is Repeated.OK
    assert store.begin(claim("A")).verdict is Verdict.RUN


def test_what_runs_or_waits_for_its_next_attempt_is_left_alone(store):
    store.begin(claim("A"))
    assert store.repeat(HANDLER, "e-1", {}, at("rerun:1")) is Repeated.BEGUN

    settle(store, claim("A"), AGAIN)
    assert store.repeat(HANDLER, "e-1", {}, at("rerun:1")) is Repeated.BEGUN

    assert due(store) == []
    assert store.begin(claim("B", attempt=1)).verdict is Verdict.DONE
    assert store.begin(claim("B", attempt=2)).verdict is Verdict.RUN


def test_a_unit_that_became_a_dead_letter_is_finished(store):
    buried(store)

    assert store.repeat(HANDLER, "e-1", {}, at("rerun:1")) is Repeated.OK
    assert store.begin(claim("B")).verdict is Verdict.RUN


def test_a_finished_join_runs_again_with_the_given_parts(store):
    arrive(store, "a", "A")
    assert arrive(store, "b", "A").verdict is Verdict.RUN
    assert settle(store, claim("A", JOIN), Settlement(unscheduled=[f"deadline:{JOIN}"])) is Outcome.OK
    assert arrive(store, "b", "B").verdict is Verdict.DONE

    parts = {"a": "one", "b": "two"}
    assert store.repeat(HANDLER, JOIN, parts, at("rerun:1")) is Repeated.OK

    result = arrive(store, "b", "B")
    assert (result.verdict, dict(result.parts)) == (Verdict.RUN, parts)


def test_a_join_that_waits_is_left_alone(store):
    arrive(store, "a", "A")

    assert store.repeat(HANDLER, JOIN, {"b": "two"}, at("rerun:1")) is Repeated.WAITING
    assert due(store) == []
    assert dict(store.look(HANDLER, JOIN).parts).keys() == {"a"}


@pytest.mark.parametrize("later", [0.0, 60.0])
def test_the_message_waits_for_its_time(store, later):
    finished(store)
    store.repeat(HANDLER, "e-1", {}, at("rerun:1", later))

    assert due(store) == ([] if later else ["rerun:1"])
