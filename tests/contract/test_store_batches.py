"""Several claims that are committed as one, and beginnings that are taken back: promises that every store keeps."""

import pytest

from choreo.errors import StoreError
from choreo.store import Claim, Outcome, Settlement, Store, Verdict
from choreo.store.redis import RedisStore
from choreo.store.schedule import Scheduled
from tests.contract.rigs import DONE, HANDLER, RedisRig, claim, message

NOTHING = Settlement()


def begun(store: Store, *units: str, token: str = "A") -> list[Claim]:
    claims = [claim(token, unit) for unit in units]
    store.begin_all([(one, None) for one in claims])
    return claims


def announcing(key: str) -> Settlement:
    return Settlement(sent={key: message(key)})


class TestAsOne:
    def test_all_are_done_and_what_each_announces_leaves(self, store: Store) -> None:
        first, second = begun(store, "e-1", "e-2")

        answers = store.commit_as_one([(first, announcing("one")), (second, DONE)], NOTHING)

        assert [answer.outcome for answer in answers] == [Outcome.OK, Outcome.OK]
        assert store.is_finished(HANDLER, "e-1")
        assert store.is_finished(HANDLER, "e-2")

    def test_one_that_was_lost_does_not_hold_up_the_others(self, store: Store) -> None:
        first, second, third = begun(store, "e-1", "e-2", "e-3")
        store.commit(second, DONE)
        stranger = claim("X", "e-3")

        answers = store.commit_as_one([(stranger, DONE), (second, DONE), (first, DONE)], NOTHING)

        assert [answer.outcome for answer in answers] == [Outcome.STALE, Outcome.ALREADY, Outcome.OK]
        assert not store.is_finished(HANDLER, "e-3")
        assert store.commit(third, DONE).outcome is Outcome.OK

    def test_what_is_shared_waits_in_the_schedule_if_any_is_settled(self, store: Store) -> None:
        first, second = begun(store, "e-1", "e-2")
        store.commit(first, DONE)
        later = Scheduled("event:later", message("later"), 30.0)

        store.commit_as_one([(first, DONE), (second, DONE)], Settlement(scheduled=[later]))

        assert [entry.id for entry in store.entries(HANDLER, 10)] == ["event:later"]

    def test_what_is_shared_does_not_leave_if_none_is_settled(self, store: Store) -> None:
        (first,) = begun(store, "e-1")
        store.commit(first, DONE)
        shared = Settlement(sent={"event:s": message("s")}, scheduled=[Scheduled("event:l", message("l"), 30.0)])

        (answer,) = store.commit_as_one([(first, DONE)], shared)

        assert answer.outcome is Outcome.ALREADY
        assert not answer.unsent
        assert store.entries(HANDLER, 10) == []

    def test_a_failed_member_and_a_done_one_are_told_apart(self, store: Store) -> None:
        first, second = begun(store, "e-1", "e-2")

        store.commit_as_one([(first, Settlement(done=False)), (second, DONE)], NOTHING)

        assert not store.is_finished(HANDLER, "e-1")
        assert store.is_finished(HANDLER, "e-2")

    def test_one_that_the_server_refuses_is_not_settled_and_the_others_are(self, redis_rig: RedisRig) -> None:
        store = redis_rig.store
        assert isinstance(store, RedisStore)
        first, second = begun(store, "e-1", "e-2")
        unit = f"{redis_rig.prefix}:{{{HANDLER}}}:unit:e-1"
        redis_rig.client.delete(unit)
        redis_rig.client.set(unit, "no hash")

        answers = store.commit_as_one([(first, DONE), (second, DONE)], NOTHING)

        assert [answer.outcome for answer in answers] == [Outcome.LOST, Outcome.OK]

    def test_a_store_that_is_away_says_so(self) -> None:
        away = RedisStore("redis://127.0.0.1:1/0")
        with pytest.raises(StoreError):
            away.commit_as_one([(claim("A", "e-1"), DONE)], NOTHING)


class TestUndoBegin:
    def test_a_beginning_that_is_taken_back_does_not_count_and_the_unit_is_free(self, store: Store) -> None:
        (first,) = begun(store, "e-1")

        store.undo_begin([first])

        again = store.begin(claim("B", "e-1"))
        assert (again.verdict, again.deliveries) == (Verdict.RUN, 1)

    def test_earlier_beginnings_still_count(self, store: Store) -> None:
        (first,) = begun(store, "e-1")
        store.undo_begin([first])
        store.begin(first)
        store.undo_begin([claim("X", "e-1")])

        assert store.begin(claim("B", "e-1")).verdict is Verdict.BUSY, "a stranger takes nothing back"

    def test_nothing_happens_to_a_unit_that_is_done(self, store: Store) -> None:
        (first,) = begun(store, "e-1")
        store.commit(first, DONE)

        store.undo_begin([first])

        assert store.is_finished(HANDLER, "e-1")
