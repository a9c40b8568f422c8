"""The promises of every store: a unit is begun by one at a time, and settled once."""

import pytest

from choreo.store import ClaimResult, Outcome, Settlement, Verdict
from tests.contract.rigs import (
    AGAIN,
    DONE,
    HANDLER,
    LEASE,
    at,
    at_once,
    claim,
    due,
    settle,
)


def test_a_unit_is_begun_by_one_and_settled_once(store):
    assert store.begin(claim()) == ClaimResult(Verdict.RUN, deliveries=1)

    assert settle(store, claim(), DONE) is Outcome.OK

    assert settle(store, claim(), DONE) is Outcome.ALREADY
    assert store.begin(claim("B")).verdict is Verdict.DONE


def test_units_are_apart_by_event_and_by_handler(store):
    store.begin(claim())

    assert store.begin(claim("B", unit="e-2")).verdict is Verdict.RUN
    assert store.begin(claim("B", handler="payment.charge")).verdict is Verdict.RUN


def test_what_another_worker_holds_is_busy_for_the_rest_of_its_lease(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(10)

    result = rig.store.begin(claim("B"))

    assert result.verdict is Verdict.BUSY
    assert result.busy_seconds == pytest.approx(LEASE - 10, abs=4)


def test_a_lease_that_ran_out_goes_to_whoever_asks_next(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)

    assert rig.store.begin(claim("B")) == ClaimResult(Verdict.RUN, deliveries=2)


def test_a_worker_that_lost_its_lease_changes_nothing(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)
    rig.store.begin(claim("B"))

    settlement = Settlement(scheduled=[at("event:1")], letter=("l-1", "{}"))
    assert settle(rig.store, claim("A"), settlement) is Outcome.STALE

    assert rig.store.backlog(HANDLER).total == 0
    assert rig.store.letters(HANDLER) == []
    assert settle(rig.store, claim("B"), DONE) is Outcome.OK


def test_a_worker_whose_lease_ran_out_but_went_to_nobody_still_owns_it(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)

    assert settle(rig.store, claim("A"), DONE) is Outcome.OK


def test_what_was_never_begun_cannot_be_settled(store):
    assert settle(store, claim(), DONE) is Outcome.LOST
    assert store.begin(claim()).verdict is Verdict.RUN


def test_a_lease_can_be_prolonged_by_its_owner_only(rig):
    rig.store.begin(claim("A"))

    for _ in range(3):
        rig.pass_time(30)
        assert rig.store.renew(claim("A"))
        assert not rig.store.renew(claim("B"))

    assert rig.store.begin(claim("B")).verdict is Verdict.BUSY


def test_a_handler_may_run_for_longer_than_the_retention(rig):
    rig.store.begin(claim())
    for _ in range(5):
        rig.pass_time(20_000)
        assert rig.store.renew(claim())
    rig.pass_time(20_000)

    assert settle(rig.store, claim(), DONE) is Outcome.OK


def test_a_lease_that_is_lost_or_settled_cannot_be_prolonged(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)
    rig.store.begin(claim("B"))
    assert not rig.store.renew(claim("A"))

    settle(rig.store, claim("B"), DONE)
    assert not rig.store.renew(claim("B"))
    assert not rig.store.renew(claim("C", unit="e-2"))


def test_what_kills_its_workers_is_poison_in_the_end(rig):
    verdicts = []
    for token in "ABCDE":
        result = rig.store.begin(claim(token))
        verdicts.append((result.verdict, result.deliveries))
        rig.pass_time(40)

    run, poison = Verdict.RUN, Verdict.POISON
    assert verdicts == [(run, 1), (run, 2), (run, 3), (poison, 4), (poison, 5)]


def test_poison_is_held_under_a_lease_like_anything_else_and_can_be_settled(rig):
    for token in "ABC":
        rig.store.begin(claim(token))
        rig.pass_time(40)

    assert rig.store.begin(claim("D")).verdict is Verdict.POISON
    assert rig.store.begin(claim("E")).verdict is Verdict.BUSY
    assert settle(rig.store, claim("D"), Settlement(letter=("l-1", "{}"))) is Outcome.OK
    assert rig.store.letters(HANDLER) == ["{}"]


def test_of_many_who_begin_at_once_one_runs(store):
    for unit in range(10):
        verdicts = [result.verdict for result in at_once(8, lambda n, u=unit: store.begin(claim(f"T{n}", f"e-{u}")))]

        assert sorted(verdicts) == [Verdict.BUSY] * 7 + [Verdict.RUN]


# -- attempts ---------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_settled_and_the_next_may_begin_at_once(store):
    store.begin(claim("A", attempt=1))

    assert settle(store, claim("A", attempt=1), AGAIN) is Outcome.OK

    assert store.begin(claim("B", attempt=1)).verdict is Verdict.DONE
    assert store.begin(claim("B", attempt=2)) == ClaimResult(Verdict.RUN, deliveries=1)


def test_an_attempt_that_comes_again_after_a_later_one_is_done(store):
    for attempt in (1, 2, 3):
        store.begin(claim(attempt=attempt))
        settle(store, claim(attempt=attempt), AGAIN)

    assert [store.begin(claim("Z", attempt=attempt)).verdict for attempt in (1, 2, 3)] == [Verdict.DONE] * 3
    assert store.begin(claim("Z", attempt=4)).verdict is Verdict.RUN


def test_an_attempt_cannot_be_settled_twice(store):
    store.begin(claim())
    settle(store, claim(), Settlement(done=False, scheduled=[at("retry:1")]))

    assert settle(store, claim(), Settlement(done=False, scheduled=[at("retry:2")])) is Outcome.STALE
    assert due(store) == ["retry:1"]


def test_what_is_no_attempt_leaves_the_attempts_alone(store):
    store.begin(claim("A", attempt=0))
    settle(store, claim("A", attempt=0), AGAIN)

    assert store.begin(claim("B", attempt=0)).verdict is Verdict.RUN
    settle(store, claim("B", attempt=0), AGAIN)
    assert store.begin(claim("C", attempt=1)).verdict is Verdict.RUN
