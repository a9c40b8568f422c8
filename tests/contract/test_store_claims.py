"""Who has a unit, and how often: promises that every store keeps."""

from dataclasses import replace

from choreo.store import Outcome, Verdict
from choreo.store.claims import LastEnd
from tests.contract.rigs import AGAIN, DONE, HANDLER, TERMS, claim, settle


def test_whoever_asks_again_because_the_answer_got_lost_has_begun_once(store):
    verdicts = [store.begin(claim("A")).verdict for _ in range(2 * TERMS.max_deliveries)]

    assert set(verdicts) == {Verdict.RUN}
    assert store.begin(claim("A")).deliveries == 1


def test_a_beginning_that_is_forgiven_counts_once_less(rig):
    for token in "ABCDEFG":
        assert rig.store.begin(claim(token)).verdict is Verdict.RUN
        rig.store.forgive(claim(token))
        rig.pass_time(100)


def test_what_is_not_begun_can_be_forgiven_and_stays_not_begun(store):
    store.forgive(claim("A"))

    assert store.begin(claim("A")).deliveries == 1


def test_a_commit_tells_apart_what_somebody_else_has_or_had_from_what_nobody_has(store):
    assert settle(store, claim("A"), DONE) is Outcome.LOST

    store.begin(claim("B"))
    assert settle(store, claim("A"), DONE) is Outcome.STALE

    assert settle(store, claim("B"), AGAIN) is Outcome.OK
    assert settle(store, claim("A"), DONE) is Outcome.STALE
    assert settle(store, claim("A", attempt=2), DONE) is Outcome.LOST


def test_the_attempts_of_a_signal_are_counted_apart(store):
    unit = "join:ORD-1"
    signal = replace(claim("S", unit), signal="deadline")

    store.begin(signal)
    assert settle(store, signal, AGAIN) is Outcome.OK

    assert store.begin(signal).verdict is Verdict.DONE
    assert store.begin(replace(signal, attempt=2)).verdict is Verdict.RUN
    assert settle(store, replace(signal, attempt=2), AGAIN) is Outcome.OK
    assert store.begin(replace(claim("T", unit), signal="another")).verdict is Verdict.RUN
    assert settle(store, replace(claim("T", unit), signal="another"), AGAIN) is Outcome.OK
    assert store.begin(claim("A", unit)).verdict is Verdict.RUN


def test_an_earlier_attempt_that_settles_later_opens_no_later_one_again(store):
    for attempt in (2, 1):
        store.begin(claim("A", attempt=3))
        assert settle(store, claim("A", attempt=attempt), AGAIN) is Outcome.OK

    assert store.begin(claim("B", attempt=2)).verdict is Verdict.DONE


def test_a_unit_is_not_forgotten_while_somebody_is_at_it(rig):
    retention = TERMS.retention.total_seconds()
    rig.store.begin(claim("A"))
    assert settle(rig.store, claim("A"), AGAIN) is Outcome.OK
    rig.pass_time(retention - 10)

    assert rig.store.begin(claim("B", attempt=2)).verdict is Verdict.RUN
    rig.pass_time(20)

    assert rig.store.begin(claim("C", attempt=2)).verdict is Verdict.BUSY
    assert settle(rig.store, claim("B", attempt=2), DONE) is Outcome.OK


def test_how_a_beginning_ended_is_known_to_the_next_one_only(rig):
    store, unit = rig.store, "e-1"
    store.record_end(HANDLER, unit, "nothing has begun")
    store.begin(claim("A"))
    store.record_end(HANDLER, unit, "signal 9")
    assert store.last_end(HANDLER, unit) == LastEnd("signal 9")
    rig.pass_time(100)

    store.begin(claim("B"))
    assert store.last_end(HANDLER, unit) == LastEnd("signal 9", holder="A")

    rig.pass_time(100)
    store.begin(claim("C"))
    assert store.last_end(HANDLER, unit) == LastEnd("", holder="B")


def test_a_commit_forgets_how_the_beginnings_of_its_attempt_ended(rig):
    store, unit = rig.store, "e-1"
    store.begin(claim("A"))
    store.record_end(HANDLER, unit, "signal 9")
    rig.pass_time(100)
    store.begin(claim("B"))
    assert settle(store, claim("B"), AGAIN) is Outcome.OK

    store.begin(claim("C", attempt=2))
    assert store.last_end(HANDLER, unit) == LastEnd()


def test_a_process_that_has_lost_its_claim_records_no_end_of_another_ones_run(rig):
    store, unit = rig.store, "e-1"
    store.begin(claim("host-1-abc"))
    store.record_end(HANDLER, unit, "not its own", ["host-2-", "host-1", "abc"])
    assert store.last_end(HANDLER, unit) == LastEnd()
    store.record_end(HANDLER, unit, "time limit", ["host-1-", "tag:1"])
    assert store.last_end(HANDLER, unit) == LastEnd("time limit")
    rig.pass_time(100)

    store.begin(claim("tag:12"))
    store.record_end(HANDLER, unit, "too late", ["host-1-", "tag:1"])
    assert store.last_end(HANDLER, unit) == LastEnd("time limit", holder="host-1-abc")
    store.record_end(HANDLER, unit, "killed", ["host-2-", "tag:12"])
    assert store.last_end(HANDLER, unit).text == "killed"


def test_the_end_of_a_finished_unit_is_not_noted(store):
    store.begin(claim("A"))
    assert settle(store, claim("A"), DONE) is Outcome.OK

    store.record_end(HANDLER, "e-1", "too late")

    assert store.begin(claim("B")).verdict is Verdict.DONE
    assert store.last_end(HANDLER, "e-1") == LastEnd()
