"""Decisions about several units in one call, and claims that are made ahead: promises that every store keeps."""

from dataclasses import replace

import pytest

from choreo.errors import StoreError
from choreo.store import Claim, ClaimResult, CommitResult, Outcome, Settlement, Store, Verdict
from choreo.store.redis import RedisStore
from tests.contract.rigs import AGAIN, DONE, HANDLER, LEASE, TERMS, RedisRig, Rig, at, claim, due, message, part_of

#: A handler whose keys are in another slot of a cluster.
OTHER = "loyalty.thank"
#: Seconds. Rigs move time in steps of 10.
AHEAD = 15.0


def ahead(token: str = "A", unit: str = "e-1", handler: str = HANDLER) -> Claim:
    return replace(claim(token, unit, handler=handler), ahead=AHEAD)


def verdicts(answers: list[ClaimResult | StoreError]) -> list[Verdict]:
    return [answer.verdict for answer in answers if isinstance(answer, ClaimResult)]


def outcomes(answers: list[CommitResult | StoreError]) -> list[Outcome]:
    return [answer.outcome for answer in answers if isinstance(answer, CommitResult)]


def announcing(key: str) -> Settlement:
    return Settlement(sent={key: message(key)})


class TestBeginning:
    def test_each_unit_gets_its_own_answer_whatever_its_handler(self, store: Store) -> None:
        store.begin(claim("A", "done"))
        store.commit(claim("A", "done"), DONE)
        store.begin(claim("B", "busy"))

        answers = store.begin_all(
            [
                (claim("C", "done"), None),
                (claim("C", "e-1", handler=OTHER), None),
                (claim("C", "busy"), None),
                (claim("C", "join:ORD-1"), part_of("a")),
                (claim("D", "join:ORD-1"), part_of("b")),
                (claim("C", "e-1"), None),
            ]
        )

        wanted = [Verdict.DONE, Verdict.RUN, Verdict.BUSY, Verdict.WAIT, Verdict.RUN, Verdict.RUN]
        assert verdicts(answers) == wanted
        assert isinstance(answers[4], ClaimResult)
        assert set(answers[4].parts) == {"a", "b"}

    def test_nothing_is_asked_about_no_units(self, store: Store) -> None:
        assert store.begin_all([]) == []
        assert store.commit_all([]) == []
        store.release([])
        store.sent_all({})

    def test_a_text_that_cannot_be_sent_fails_alone(self, redis_rig: RedisRig) -> None:
        bad, good = redis_rig.store.begin_all([(claim("A", "half a \ud83d"), None), (claim("A", "e-1"), None)])

        assert isinstance(bad, StoreError)
        assert isinstance(good, ClaimResult)

    def test_a_unit_that_the_server_refuses_fails_alone(self, redis_rig: RedisRig) -> None:
        redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:unit:e-1", "no hash")

        bad, good = redis_rig.store.begin_all([(claim("A", "e-1"), None), (claim("A", "e-2"), None)])

        assert isinstance(bad, StoreError)
        assert not bad.is_outage
        assert isinstance(good, ClaimResult)


class TestAhead:
    def test_a_claim_ahead_keeps_others_out_for_its_own_time(self, rig: Rig) -> None:
        assert rig.store.begin(ahead("A")).verdict is Verdict.RUN
        assert rig.store.begin(claim("B")).verdict is Verdict.BUSY

        rig.pass_time(20)

        assert rig.store.begin(claim("B")).verdict is Verdict.RUN

    def test_a_claim_ahead_is_no_beginning(self, rig: Rig) -> None:
        for token in "ABCDE":  # more than may begin
            assert rig.store.begin(ahead(token)).verdict is Verdict.RUN
            rig.pass_time(20)

        assert rig.store.begin(claim("F")).deliveries == 1

    def test_it_counts_once_its_handler_begins_and_then_holds_like_any_other(self, rig: Rig) -> None:
        rig.store.begin(ahead("A"))

        assert rig.store.begin(claim("A")).deliveries == 1
        assert rig.store.begin(claim("A")).deliveries == 1

        rig.pass_time(20)
        assert rig.store.begin(claim("B")).verdict is Verdict.BUSY
        rig.pass_time(LEASE)
        assert rig.store.begin(claim("B")).deliveries == 2

    def test_what_has_begun_before_is_not_claimed_ahead(self, rig: Rig) -> None:
        rig.store.begin(claim("A"))
        rig.pass_time(2 * LEASE)

        assert rig.store.begin(ahead("B")).verdict is Verdict.BUSY
        assert rig.store.begin(claim("B")).deliveries == 2

    def test_a_part_that_completes_a_join_claims_it_ahead(self, rig: Rig) -> None:
        rig.store.arrive(ahead("A", "join:ORD-1"), part_of("a"))

        assert rig.store.arrive(ahead("B", "join:ORD-1"), part_of("b")).verdict is Verdict.RUN
        assert rig.store.begin(claim("C", "join:ORD-1")).verdict is Verdict.BUSY
        assert rig.store.arrive(claim("B", "join:ORD-1"), part_of("b")).deliveries == 1

    def test_it_can_be_committed(self, store: Store) -> None:
        store.begin(ahead("A"))

        assert store.commit(claim("A"), DONE).outcome is Outcome.OK

    def test_it_can_be_given_back(self, store: Store) -> None:
        store.begin_all([(ahead("A"), None), (ahead("A", handler=OTHER), None)])

        store.release([ahead("A"), ahead("A", handler=OTHER), ahead("A", "never claimed")])

        assert store.begin(claim("B")).deliveries == 1
        assert store.begin(claim("B", handler=OTHER)).deliveries == 1

    def test_the_claim_of_a_handler_that_has_begun_is_not_given_back(self, store: Store) -> None:
        store.begin(ahead("A"))
        store.begin(claim("A"))
        store.begin(ahead("B", "e-2"))

        store.release([ahead("A"), ahead("C", "e-2")])

        assert store.begin(claim("D")).verdict is Verdict.BUSY
        assert store.begin(claim("D", "e-2")).verdict is Verdict.BUSY


class TestCommitting:
    def test_each_claim_gets_its_own_answer(self, store: Store) -> None:
        store.begin_all([(claim(unit=unit), None) for unit in ("e-1", "e-2", "e-3")])
        store.commit(claim(unit="e-2"), DONE)
        store.begin(claim("A", handler=OTHER))

        answers = store.commit_all(
            [
                (claim(unit="e-1"), DONE),
                (claim(unit="e-2"), DONE),
                (claim("B", "e-3"), DONE),
                (claim(unit="never begun"), DONE),
                (claim("A", handler=OTHER), AGAIN),
            ]
        )

        assert outcomes(answers) == [Outcome.OK, Outcome.ALREADY, Outcome.STALE, Outcome.LOST, Outcome.OK]
        assert store.begin(claim("C", "e-1")).verdict is Verdict.DONE
        assert store.begin(claim("C", "e-3")).verdict is Verdict.BUSY
        assert store.begin(replace(claim("C", handler=OTHER), attempt=2)).verdict is Verdict.RUN

    def test_what_is_announced_is_in_the_outbox_until_it_is_reported_as_sent(self, rig: Rig) -> None:
        units = ("e-1", "e-2")
        for unit in units:
            rig.store.begin(claim(unit=unit))

        answers = rig.store.commit_all([(claim(unit=unit), announcing(f"event:{unit}")) for unit in units])

        unsent = [key for answer in answers if isinstance(answer, CommitResult) for key in answer.unsent]
        if unsent:  # the fused store sends by itself
            assert unsent == ["event:e-1", "event:e-2"]
            rig.store.sent_all({HANDLER: ["event:e-1"], OTHER: ["no such"]})
            rig.pass_time(10)
            assert due(rig.store) == ["event:e-2"]

    def test_a_commit_can_tell_what_was_sent(self, rig: Rig) -> None:
        rig.store.schedule(HANDLER, at("event:e-1"))
        rig.store.schedule(HANDLER, at("event:e-2"))
        rig.store.begin(claim())

        (answer,) = rig.store.commit_all([(claim(), DONE)], {HANDLER: ["event:e-1"], OTHER: ["no such"]})

        assert outcomes([answer]) == [Outcome.OK]
        assert due(rig.store) == ["event:e-2"]

    def test_a_letter_and_a_retry_are_recorded_beside_others(self, store: Store) -> None:
        store.begin_all([(claim(unit=unit), None) for unit in ("e-1", "e-2", "e-3")])

        store.commit_all(
            [
                (claim(unit="e-1"), Settlement(letter=("l-1", "{}"))),
                (claim(unit="e-2"), Settlement(took_part=["x", "y"], counted="late")),
                (claim(unit="e-3"), DONE),
            ]
        )

        assert store.letters(HANDLER) == ["{}"]
        assert [store.begin(claim("B", unit)).verdict for unit in ("e-1", "e-2", "e-3")] == [Verdict.DONE] * 3

    def test_a_text_that_cannot_be_sent_fails_alone(self, redis_rig: RedisRig) -> None:
        redis_rig.store.begin(claim())

        bad, good = redis_rig.store.commit_all([(claim("\ud83d"), DONE), (claim(), DONE)])

        assert isinstance(bad, StoreError)
        assert isinstance(good, CommitResult)

    def test_a_claim_that_the_server_refuses_fails_alone(self, redis_rig: RedisRig) -> None:
        redis_rig.store.begin_all([(claim(unit="e-1"), None), (claim(unit="e-2"), None)])
        redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:letters", "no hash")

        answers = redis_rig.store.commit_all(
            [(claim(unit="e-1"), Settlement(letter=("l-1", "{}"))), (claim(unit="e-2"), DONE)]
        )

        assert isinstance(answers[0], StoreError)
        assert outcomes(answers) == [Outcome.OK]

    def test_while_the_store_is_away_every_answer_says_so(self) -> None:
        store = RedisStore("redis://127.0.0.1:1/0", TERMS)

        answers = [*store.begin_all([(claim(), None)] * 2), *store.commit_all([(claim(), DONE)] * 2)]

        assert [isinstance(answer, StoreError) and answer.is_outage for answer in answers] == [True] * 4
        with pytest.raises(StoreError):
            store.release([claim()])
