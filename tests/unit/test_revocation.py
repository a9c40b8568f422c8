"""A revoked run of a join: which dead letters it makes, and what becomes of the join."""

from datetime import timedelta

import pytest

from choreo import Envelope, Event, Reason, Retry, RetryLater, Several, Terms
from choreo.delivery.ending import End, Ending
from choreo.delivery.revocation import Revocation
from choreo.store.parts import unit_of
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service


class ItemPacked(Event):
    """One item of an order is in the bag."""


HANDLER = "driver.assign"
CONFIRMED = envelope(OrderConfirmed(), id="e-1", subject="ORD-1")
CHARGED = envelope(PaymentCharged(), id="e-2", subject="ORD-1")


@pytest.fixture(params=[False, True], ids=["once", "rounds"])
def stage(request: pytest.FixtureRequest) -> Stage:
    app = service("driver")
    within = timedelta(minutes=5)

    @app.join(OrderConfirmed, PaymentCharged, unless=OrderPlaced, within=within, on_timeout=late, rounds=request.param)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    return Stage(app)


def late(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None:
    pytest.fail("the deadline came")


def revoke(stage: Stage, event: Envelope, attempt: int = 1) -> str:
    task = stage.app.tasks[HANDLER]
    return Revocation(task.make_delivery(event, attempt), "it was revoked").live()


def killed(stage: Stage, event: Envelope, how: Ending) -> None:
    """Begin a run, whose process is ended."""
    stage.app.tasks[HANDLER].make_delivery(event, 1).begin()
    stage.store.record_end(HANDLER, unit_of("ORD-1"), how.to_text())
    stage.wait(60)


def test_a_revoked_part_of_an_incomplete_join_becomes_a_dead_letter_and_the_join_waits_for_its_replay(stage):
    stage.deliver(CONFIRMED)

    revoke(stage, CHARGED)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.error, letter.envelopes) == (Reason.REVOKED, "it was revoked", (CHARGED,))
    assert letter.attempts == 0, "the join was not attempted"
    assert [str(missing) for join in stage.joins for missing in join.missing] == ["payment.charged"]
    stage.app.dead_letters.replay(letter.id)
    stage.run()
    assert stage.types == ["driver.assigned"]
    assert not stage.joins


def test_a_revoked_part_that_is_in_the_join_already_needs_no_dead_letter(stage):
    stage.deliver(CONFIRMED)

    assert revoke(stage, CONFIRMED) == "done before"

    assert stage.dead_letters == []
    stage.deliver(CHARGED)
    assert stage.types == ["driver.assigned"]


def test_a_revoked_run_of_a_complete_join_becomes_one_dead_letter_with_all_parts(stage):
    stage.deliver(CONFIRMED)
    killed(stage, CHARGED, Ending(End.LOST, "process 7 ended with signal 9 (SIGKILL)"))

    revoke(stage, CHARGED)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.envelopes) == (Reason.REVOKED, (CONFIRMED, CHARGED))
    stage.pass_time(3600)
    assert (stage.types, len(stage.joins)) == ([], 0)
    stage.app.dead_letters.replay(letter.id)
    stage.run()
    assert stage.types == ["driver.assigned"]


def test_a_terminated_join_does_not_run_again_at_its_deadline(stage):
    stage.deliver(CONFIRMED)
    killed(stage, CHARGED, Ending(End.TERMINATED, "it was ended with signal 15 (SIGTERM)"))

    stage.deliver(CHARGED)
    stage.pass_time(3600)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.error) == (Reason.REVOKED, "it was ended with signal 15 (SIGTERM)")
    assert stage.types == []
    assert not stage.joins
    stage.app.dead_letters.replay(letter.id)
    stage.run()
    assert stage.types == ["driver.assigned"]


def test_a_join_that_is_terminated_at_its_deadline_becomes_a_dead_letter_whose_replay_runs_that_again(stage):
    stage.deliver(CONFIRMED)
    stage.wait(301)
    stage.clock.tick()
    (deadline,) = (delivery.event for delivery in stage.pending)
    killed(stage, deadline, Ending(End.TERMINATED, "it was ended with signal 9 (SIGKILL)"))

    stage.deliver(deadline, HANDLER)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.envelopes) == (Reason.REVOKED, (CONFIRMED,))
    assert not stage.joins


def test_a_revoked_cancellation_becomes_a_dead_letter_and_cancels_once_it_is_replayed(stage):
    stage.deliver(CONFIRMED)

    revoke(stage, envelope(OrderPlaced(customer_id="alice", total_cents=1), id="e-3", subject="ORD-1"))

    (letter,) = stage.dead_letters
    assert [event.type for event in letter.envelopes] == ["order.placed"]
    assert len(stage.joins) == 1
    stage.app.dead_letters.replay(letter.id)
    stage.run()
    assert not stage.joins


def test_a_time_limit_is_a_failed_attempt_of_a_join(stage):
    stage.deliver(CONFIRMED)
    killed(stage, CHARGED, Ending(End.TIME_LIMIT, "the time limit of 3 s was exceeded"))

    assert "attempt 1 of 6 failed" in str(stage.deliver(CHARGED).result)

    stage.pass_time(3600)
    assert stage.types == ["driver.assigned"]


def test_the_task_id_of_a_replay_is_another_one_for_each_dead_letter():
    ids = {CONFIRMED.occasion, CONFIRMED.replayed("a").occasion, CONFIRMED.replayed("a").replayed("b").occasion}

    assert len(ids) == 3
    assert Envelope.from_wire(CONFIRMED.replayed("a").to_wire()).replay == "a"
    assert CONFIRMED.replayed("a").identity == CONFIRMED.identity


def test_a_revoked_part_of_several_is_known_by_its_name():
    app = service("driver")

    @app.join(OrderConfirmed, Several(ItemPacked, 2))
    def assign(confirmed: OrderConfirmed, items: list[ItemPacked]) -> DriverAssigned:
        return DriverAssigned()

    stage = Stage(app)
    first, second = (envelope(ItemPacked(), id=f"i-{number}", subject="ORD-1") for number in (1, 2))
    stage.deliver(first)

    assert revoke(stage, first) == "done before"
    revoke(stage, second)

    assert [letter.envelopes for letter in stage.dead_letters] == [(second,)]


# -- rounds -----------------------------------------------------------------------------------------------------------

#: Longer than an event is held back that a pending round has no place for.
HELD = Terms().lease.total_seconds() + 1


def rounds(*errors: Exception, several: int = 1) -> Stage:
    """A join with rounds, whose handler fails once with each of these errors."""
    app = service("driver")
    fails = list(errors)

    @app.join(OrderConfirmed, Several(PaymentCharged, several), rounds=True, retry=Retry(times=3))
    def assign(confirmed: OrderConfirmed, charged: list[PaymentCharged]) -> DriverAssigned:
        if fails:
            raise fails.pop()
        return DriverAssigned()

    return Stage(app)


def confirmed(number: int) -> Envelope:
    return envelope(OrderConfirmed(), id=f"confirmed-{number}", subject="ORD-1")


def charged(number: int) -> Envelope:
    return envelope(PaymentCharged(), id=f"charged-{number}", subject="ORD-1")


@pytest.mark.parametrize("several", [1, 2])
def test_a_revoked_retry_of_a_round_makes_one_dead_letter_of_the_round_and_frees_its_key(several):
    stage = rounds(RetryLater(1000), several=several)
    parts = [confirmed(1), *(charged(number) for number in range(several))]
    for part in reversed(parts):
        stage.deliver(part)

    revoke(stage, parts[0], attempt=2)

    (letter,) = stage.dead_letters
    assert (letter.reason, list(letter.envelopes), len(stage.joins)) == (Reason.REVOKED, parts, 0)
    stage.app.dead_letters.replay(letter.id)
    stage.run()
    assert stage.types == ["driver.assigned"]


def test_a_part_that_the_join_had_before_it_got_rounds_is_known_when_it_is_revoked():
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    stage = Stage(app)
    stage.deliver(confirmed(1))
    (today,) = rounds().app.subscriptions
    app.subscriptions[:] = [today]
    app.tasks[HANDLER].subscription = today

    assert revoke(stage, confirmed(1)) == "done before"
    assert stage.dead_letters == []


@pytest.mark.parametrize("how", ["settled", "waits for its next attempt"])
def test_a_revoked_event_of_the_next_round_becomes_a_dead_letter_whose_replay_begins_that_round(how):
    stage = rounds(*([] if how == "settled" else [RetryLater(10)]))
    for part in (confirmed(1), charged(1)):
        stage.deliver(part)

    revoke(stage, confirmed(2))

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.unit, letter.envelopes) == (Reason.REVOKED, None, (confirmed(2),))
    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(10 + 2 * HELD)
    stage.deliver(charged(2))
    assert stage.types == ["driver.assigned"] * 2
    assert not stage.joins


@pytest.mark.parametrize("how", ["settled", "waits for its next attempt"])
def test_a_revoked_copy_of_an_event_that_took_part_in_a_round_needs_no_dead_letter(how):
    stage = rounds(*([] if how == "settled" else [RetryLater(10)]))
    for part in (confirmed(1), charged(1)):
        stage.deliver(part)

    for part in (confirmed(1), charged(1)):
        assert revoke(stage, part) == "done before"

    assert stage.dead_letters == []
    stage.pass_time(11)
    assert stage.types == ["driver.assigned"]
