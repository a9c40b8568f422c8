"""The promises of every store: turns of the events of one key."""

from choreo.events.message import Message
from choreo.store.claims import Claim, Settlement, Verdict
from choreo.store.schedule import Scheduled
from choreo.store.turns import ASK_AGAIN, ASKED, AWAITED, CALL_GRACE, CALLED, RUNNING, Turn, TurnVerdict
from tests.contract.rigs import HANDLER, LEASE

GO, WAIT, DONE = TurnVerdict.GO, TurnVerdict.WAIT, TurnVerdict.DONE


def turn(unit: str, time: int = 0, *, key: str = "ORD-1", token: str = "") -> Turn:
    return Turn(HANDLER, key, unit, time, token or f"token-{unit}")


def copy_of(unit: str) -> Message:
    return Message("", "queue", unit.encode(), {})


def ask(store, unit: str, time: int = 0, **about: str):
    return store.take_turn(turn(unit, time, **about), copy_of(unit))


def finish(store, unit: str) -> None:
    claim = Claim(HANDLER, unit, f"claim-{unit}")
    assert store.begin(claim).verdict is Verdict.RUN
    store.commit(claim, Settlement())


def bodies(called) -> list[str]:
    return [message.body.decode() for message in called.values()]


def kept(store) -> list[str]:
    """The copies in the schedule."""
    return [entry.message.body.decode() for entry in store.entries(HANDLER, 100)]


def test_the_first_event_of_a_key_has_the_turn_and_the_next_ones_wait(store):
    assert ask(store, "a").verdict is GO

    assert ask(store, "b").verdict is WAIT
    assert ask(store, "c").verdict is WAIT

    assert store.series(HANDLER, "ORD-1") == ["a", "b", "c"]
    assert sorted(kept(store)) == ["b", "c"]


def test_other_keys_do_not_wait(store):
    ask(store, "a")

    assert ask(store, "b", key="ORD-2").verdict is GO


def test_an_event_that_asks_again_keeps_its_turn(store):
    ask(store, "a")

    assert ask(store, "a", token="another").verdict is GO


def test_the_next_event_is_called_when_the_first_one_is_finished(store):
    ask(store, "a")
    ask(store, "b")
    ask(store, "c")
    finish(store, "a")

    called = store.end_turn(turn("a"), 0.0)

    assert bodies(called) == ["b"]
    assert ask(store, "c", token="again").verdict is WAIT
    store.sent(HANDLER, list(called))
    assert kept(store) == ["c"]
    assert ask(store, "b").verdict is GO
    finish(store, "b")
    assert bodies(store.end_turn(turn("b"), 0.0)) == ["c"]


def test_the_copy_that_was_called_falls_due_unless_it_was_sent(rig):
    ask(rig.store, "a")
    ask(rig.store, "b")
    finish(rig.store, "a")
    rig.store.end_turn(turn("a"), 0.0)

    rig.pass_time(CALL_GRACE + 1)

    assert [message.body for _, message in rig.store.due(HANDLER, 10, 5.0)] == [b"b"]


def test_an_event_that_is_not_finished_keeps_its_turn_for_its_retry(rig):
    ask(rig.store, "a")
    ask(rig.store, "b")

    assert rig.store.end_turn(turn("a"), 7200.0) == {}

    rig.pass_time(7200 + AWAITED / 2)
    assert ask(rig.store, "b", token="again").verdict is WAIT
    assert ask(rig.store, "a", token="retry").verdict is GO


def test_an_event_may_give_its_turn_up_and_comes_last_then(store):
    ask(store, "a")
    ask(store, "b")

    assert bodies(store.end_turn(turn("a"))) == ["b"]

    assert ask(store, "b").verdict is GO
    assert ask(store, "a", token="retry").verdict is WAIT
    assert store.series(HANDLER, "ORD-1") == ["b", "a"]


def test_those_that_wait_are_ordered_by_their_time_and_then_by_their_arrival(store):
    ask(store, "a", 5)
    for unit, time in (("late", 9), ("early", 7), ("later", 9)):
        assert ask(store, unit, time).verdict is WAIT

    assert store.series(HANDLER, "ORD-1") == ["a", "early", "late", "later"]
    finish(store, "a")
    assert bodies(store.end_turn(turn("a", 5), 0.0)) == ["early"]


def test_an_event_has_its_place_when_it_has_come_and_whoever_asks_first_waits_for_it(store):
    store.enter_series(turn("a", 1))
    store.enter_series(turn("b", 2))

    assert ask(store, "b", 2).verdict is WAIT

    assert ask(store, "a", 1).verdict is GO


def test_an_event_that_has_come_and_not_asked_yet_has_the_turn_next(store):
    ask(store, "a")
    store.enter_series(turn("b"))
    ask(store, "c")
    finish(store, "a")

    assert store.end_turn(turn("a"), 0.0) == {}

    assert ask(store, "c", token="again").verdict is WAIT
    assert ask(store, "b").verdict is GO


def test_a_finished_event_has_no_turn_and_lets_the_next_one_go_on(store):
    ask(store, "a")
    ask(store, "b")
    finish(store, "a")

    again = ask(store, "a", token="again")

    assert again.verdict is DONE
    assert bodies(again.called) == ["b"]
    store.enter_series(turn("a"))
    assert store.series(HANDLER, "ORD-1") == ["b"]


def test_a_run_that_is_renewed_keeps_its_turn(rig):
    ask(rig.store, "a")
    ask(rig.store, "b")
    for _ in range(3):
        rig.pass_time(LEASE)
        assert rig.store.renew_turn(turn("a"))

    assert ask(rig.store, "b", token="again").verdict is WAIT
    assert not rig.store.renew_turn(turn("b"))


def test_an_event_of_which_nothing_is_seen_any_more_loses_its_turn_to_the_first_that_waits(rig):
    ask(rig.store, "a")
    ask(rig.store, "b", 1)
    ask(rig.store, "c", 2)
    rig.store.end_turn(turn("a"))
    assert ask(rig.store, "b", 1, token="b-2").verdict is GO

    rig.pass_time(2 * LEASE + RUNNING + 1)

    # c asks again. b is still the first of its series, but its copy has not come back.
    asked = ask(rig.store, "c", 2, token="c-2")
    assert asked.verdict is WAIT
    rig.pass_time(ASKED + 1)
    assert ask(rig.store, "b", 1, token="b-3").verdict is GO


def test_events_that_are_lost_hold_the_others_up_for_a_while_only(rig):
    ask(rig.store, "a")
    rig.store.enter_series(turn("lost", 1))
    rig.store.enter_series(turn("lost, too", 2))
    ask(rig.store, "c", 3)
    finish(rig.store, "a")
    rig.store.end_turn(turn("a"), 0.0)

    rig.pass_time(ASKED + 1)
    assert ask(rig.store, "c", 3, token="c-2").verdict is WAIT
    rig.pass_time(ASKED + 1)
    assert ask(rig.store, "c", 3, token="c-3").verdict is GO

    # It was only late.
    assert ask(rig.store, "lost", 1).verdict is WAIT
    finish(rig.store, "c")
    assert bodies(rig.store.end_turn(turn("c", 3), 0.0)) == ["lost"]


def test_what_waits_asks_again_by_itself(rig):
    ask(rig.store, "a")
    ask(rig.store, "b")

    rig.pass_time(ASK_AGAIN + 1)

    ((key, message),) = rig.store.due(HANDLER, 10, 5.0)
    assert message.body == b"b"
    # It comes and waits again, before the clock reports that the first copy was sent.
    assert ask(rig.store, "b", token="second").verdict is WAIT
    rig.store.sent(HANDLER, [key])
    assert kept(rig.store) == ["b"]


def test_an_event_that_was_settled_by_hand_is_passed_over(store):
    ask(store, "a")
    ask(store, "b", 1)
    ask(store, "c", 2)
    finish(store, "b")
    ((entry,),) = [[entry for entry in store.entries(HANDLER, 10) if entry.message.body == b"b"]]
    store.unschedule(HANDLER, entry.id)
    finish(store, "a")

    assert bodies(store.end_turn(turn("a"), 0.0)) == ["c"]


def test_whoever_asks_ends_the_turn_of_an_event_that_was_settled_without_its_end(store):
    ask(store, "a")
    ask(store, "b")
    finish(store, "a")

    assert ask(store, "b", token="again").verdict is GO


def test_two_copies_of_one_event_wait_as_one(store):
    ask(store, "a")

    ask(store, "b", token="one")
    ask(store, "b", token="two")

    assert kept(store) == ["b"]


def test_other_entries_of_the_schedule_are_left_alone(store):
    store.schedule(HANDLER, Scheduled("retry:x", copy_of("x"), 60.0))
    ask(store, "a")
    ask(store, "b")
    finish(store, "a")
    store.sent(HANDLER, list(store.end_turn(turn("a"), 0.0)))

    assert kept(store) == ["x"]


def test_the_turn_of_an_event_that_was_called_lasts_for_an_hour(rig):
    ask(rig.store, "a")
    ask(rig.store, "b", 1)
    ask(rig.store, "c", 2)
    finish(rig.store, "a")
    rig.store.sent(HANDLER, list(rig.store.end_turn(turn("a"), 0.0)))

    rig.pass_time(CALLED - 60)
    assert ask(rig.store, "c", 2, token="c-2").verdict is WAIT
    assert rig.store.series(HANDLER, "ORD-1") == ["b", "c"]
