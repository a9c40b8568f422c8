"""Commits of several deliveries together, and what they announce: with a store and a publisher in memory."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from choreo.errors import PublishError, StoreError
from choreo.events.message import Message
from choreo.fast import commit_group
from choreo.fast.commit_group import CommitGroup
from choreo.fast.rabbit_decisions import AHEAD_SECONDS, CERTAIN_SECONDS, RabbitDecisions, ahead_of
from choreo.store import Claim, CommitResult, Outcome, Settlement, Verdict
from choreo.store.claims import ClaimResult
from choreo.store.joins import Arrival
from choreo.store.memory import MemoryStore
from choreo.store.terms import Terms
from choreo.store.together import NOTHING_SENT, Sent
from tests.waiting import eventually

HANDLER = "payment.charge"


class Acks:
    """Notes what it is told, in the order in which it would be written."""

    def __init__(self, log: list[Any]) -> None:
        self._log, self._noted = log, list[int]()

    def ack(self, tag: int) -> None:
        self._noted.append(tag)

    def flush(self) -> None:
        if self._noted:
            self._log.append(("acked", self._noted))
            self._noted = []

    def give_back(self, tags: Iterable[int], *, counted: bool) -> None:
        self._log.append(("back", list(tags), counted))


class Store(MemoryStore):
    """A store that can be away, or refuse a unit."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.log, self.refused, self.away = log, set[str](), 0
        self.gate = threading.Event()
        self.gate.set()

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        if claim.unit in self.refused:
            raise StoreError("refused", is_outage=False)
        return super().commit(claim, settlement)

    def commit_all(
        self, commits: Sequence[tuple[Claim, Settlement]], sent: Sent = NOTHING_SENT
    ) -> list[CommitResult | StoreError]:
        self.gate.wait(20)
        self.log.append(("committed", [claim.unit for claim, _ in commits]))
        if self.away:
            self.away -= 1
            return [StoreError("away", is_outage=True) for _ in commits]
        return super().commit_all(commits, sent)

    def sent(self, name: str, ids: Sequence[str]) -> None:
        self.log.append(("sent", list(ids)))
        super().sent(name, ids)


class Publisher:
    def __init__(self, log: list[Any]) -> None:
        self._log, self.refused = log, set[str]()

    def send(self, messages: Iterable[Message]) -> None:
        messages = list(messages)
        self._log.append(("published", [message.routing_key for message in messages]))
        bad = [message for message in messages if message.routing_key in self.refused]
        if bad:
            raise PublishError("no", confirmed=[m for m in messages if m not in bad], unconfirmed=bad)


class Rig:
    def __init__(self) -> None:
        self.log: list[Any] = []
        self.store, self.publisher, self.acks = Store(self.log), Publisher(self.log), Acks(self.log)
        self.waiting = 0
        ports: Any = SimpleNamespace(store=self.store, publisher=self.publisher, terms=Terms())
        self.ports = ports
        self.group = CommitGroup(ports, lambda: self.waiting)

    def decisions(self, tag: int, *, redelivered: bool = False) -> RabbitDecisions:
        acks: Any = self.acks
        event: Any = f"order.placed of {tag}"
        return RabbitDecisions(self.ports, self.group, tag, acks, event, redelivered=redelivered)

    def handle(self, tag: int, announced: str = "", *, redelivered: bool = False) -> None:
        """One delivery, whose handler does nothing."""
        decisions, claim = self.decisions(tag, redelivered=redelivered), claim_of(tag)
        assert decisions.begin(claim).verdict is Verdict.RUN
        sent = {f"event:{announced}": message(announced)} if announced else {}
        assert decisions.commit(claim, Settlement(sent=sent)).outcome is Outcome.OK

    def is_done(self, tag: int) -> bool:
        return self.store.is_finished(HANDLER, f"e-{tag}")


def claim_of(tag: int) -> Claim:
    return Claim(HANDLER, f"e-{tag}", f"token-{tag}")


def message(key: str) -> Message:
    return Message("events", key, b"{}", {"id": key})


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """However slow this machine is: nothing is sent because of the time that has passed."""
    for name in ("QUICK_SECONDS", "SOON_SECONDS", "LATEST_SECONDS", "LONG_SECONDS"):
        monkeypatch.setattr(commit_group, name, 60.0)
    made = Rig()
    yield made
    made.group.close()


def test_with_one_event_in_flight_everything_is_done_at_once_and_in_order(rig: Rig) -> None:
    rig.handle(1, "paid")

    assert rig.log == [
        ("committed", ["e-1"]),
        ("published", ["paid"]),
        ("acked", [1]),
    ]


def test_the_outbox_is_told_with_the_next_commits(rig: Rig) -> None:
    rig.handle(1, "paid")
    rig.handle(2)

    assert rig.log[3:5] == [("committed", ["e-2"]), ("sent", ["event:paid"])]


def test_without_another_commit_the_outbox_is_told_soon(rig: Rig) -> None:
    rig.handle(1, "paid")

    eventually(lambda: ("sent", ["event:paid"]) in rig.log)


def test_while_more_deliveries_wait_commits_wait_for_each_other(rig: Rig) -> None:
    rig.waiting = 1
    for tag in (1, 2, 3):
        rig.handle(tag, f"paid-{tag}")
    assert rig.log == []

    rig.waiting = 0
    rig.group.flush()

    eventually(lambda: ("sent", ["event:paid-1", "event:paid-2", "event:paid-3"]) in rig.log)
    assert rig.log[:2] == [("committed", ["e-1", "e-2", "e-3"]), ("acked", [1, 2, 3])]
    assert rig.log[2] == ("published", ["paid-1", "paid-2", "paid-3"])


def test_a_group_has_a_most(rig: Rig) -> None:
    rig.waiting = 1
    for tag in range(commit_group.MOST_TOGETHER):
        rig.handle(tag)

    assert len(rig.log[0][1]) == commit_group.MOST_TOGETHER


def test_a_handler_that_took_long_does_not_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_group, "QUICK_SECONDS", 0.0)
    rig.waiting = 1

    rig.handle(1)

    assert rig.is_done(1)


def test_a_long_handler_does_not_delay_the_commits_before_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_group, "LATEST_SECONDS", 0.01)
    rig.waiting = 1
    rig.handle(1)
    rig.decisions(2).begin(claim_of(2))

    eventually(lambda: rig.is_done(1))


def test_a_redelivered_message_begins_and_commits_alone(rig: Rig) -> None:
    rig.waiting = 1
    rig.handle(1)
    rig.handle(2, redelivered=True)

    assert [entry for entry in rig.log if entry[0] == "committed"] == [("committed", ["e-1"]), ("committed", ["e-2"])]


def test_a_commit_that_comes_while_a_group_is_sent_is_sent_by_the_same_thread(rig: Rig) -> None:
    rig.store.gate.clear()
    first = threading.Thread(target=rig.handle, args=(1,))
    first.start()
    eventually(lambda: rig.group._sending.locked())

    decisions = rig.decisions(2)
    rig.store.begin(claim_of(2))
    decisions.commit(claim_of(2), Settlement())  # returns although the store does not answer
    rig.store.gate.set()
    first.join(20)

    assert rig.is_done(1)
    assert rig.is_done(2)


def test_a_refused_commit_goes_back_and_the_others_do_not(rig: Rig) -> None:
    rig.store.refused = {"e-2"}
    rig.waiting = 1
    for tag in (1, 2, 3):
        rig.handle(tag)

    rig.group.flush()

    assert ("back", [2], True) in rig.log
    assert ("acked", [1, 3]) in rig.log


def test_after_a_refusal_each_commit_is_answered_before_its_run_ends(rig: Rig) -> None:
    rig.store.refused = {"e-1", "e-2"}
    rig.handle(1)

    decisions = rig.decisions(2)
    decisions.begin(claim_of(2))
    with pytest.raises(StoreError):
        decisions.commit(claim_of(2), Settlement())

    assert not rig.group.decides(2)


def test_a_claim_that_another_worker_took_is_acked_and_announces_nothing(rig: Rig) -> None:
    rig.waiting = 1
    rig.handle(1, "paid-1")
    rig.handle(2, "paid-2")
    rig.store._unit(claim_of(1)).token = "another"

    rig.group.settle()

    assert ("acked", [1, 2]) in rig.log
    assert ("published", ["paid-2"]) in rig.log
    assert not rig.is_done(1)


def test_a_claim_that_the_store_forgot_goes_back(rig: Rig) -> None:
    rig.waiting = 1
    rig.handle(1)
    rig.store._unit(claim_of(1)).token = ""

    rig.group.flush()

    assert ("back", [1], True) in rig.log


def test_while_the_store_is_away_the_group_is_held_and_then_recorded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_group, "outlast", lambda _: rig.log.append("held"))
    rig.store.away = 1

    rig.handle(1)

    assert rig.log == [("committed", ["e-1"]), "held", ("committed", ["e-1"]), ("acked", [1])]


def test_if_the_store_stays_away_the_group_goes_back_uncounted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_group, "outlast", lambda _: None)
    rig.store.away = 2

    rig.handle(1)

    assert ("back", [1], False) in rig.log
    assert not rig.is_done(1)


def test_a_group_that_fails_in_an_unforeseen_way_goes_back_and_fails_no_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("a fault of the store's client")

    rig.waiting = 1
    rig.handle(1)
    rig.waiting = 0
    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "commit_all", fail)
        rig.handle(2)

    assert rig.log == [("back", [1], True), ("back", [2], True)]


def test_what_cannot_be_published_fails_no_run_and_stays_in_the_outbox(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no seal")

    monkeypatch.setattr(rig.publisher, "send", fail)

    rig.handle(1, "charged")

    assert rig.is_done(1)
    assert ("acked", [1]) in rig.log
    assert [entry.id for entry in rig.store.entries(HANDLER, 10)] == ["event:charged"]


def test_a_worker_that_stops_lets_no_commit_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.waiting = 1
    decisions = rig.decisions(1)
    decisions.begin(claim_of(1))
    monkeypatch.setattr(commit_group, "is_stopping", lambda: True)

    decisions.commit(claim_of(1), Settlement())

    assert ("acked", [1]) in rig.log


def test_what_the_broker_does_not_take_stays_in_the_outbox(rig: Rig) -> None:
    rig.publisher.refused = {"paid-1"}
    rig.waiting = 1
    rig.handle(1, "paid-1")
    rig.handle(2, "paid-2")

    rig.group.settle()

    assert ("sent", ["event:paid-2"]) in rig.log
    assert [key for key, _ in rig.store.due(HANDLER, 10, 1.0)] == []
    assert "event:paid-1" in {kept.id for kept in rig.store.entries(HANDLER, 10)}


def test_a_delivery_is_acked_by_its_commit_and_by_nothing_else(rig: Rig) -> None:
    rig.handle(1)

    assert rig.group.decides(1)
    assert not rig.group.decides(1)
    assert not rig.group.decides(2)


def test_after_the_end_of_the_channel_runs_commit_by_themselves(rig: Rig) -> None:
    rig.group.close()
    rig.handle(1)

    assert rig.is_done(1)
    assert not rig.group.decides(1)


class TestClaimsAhead:
    def asked(self, rig: Rig, tag: int, *, ago: float = 0.0) -> RabbitDecisions:
        """A delivery that was claimed ahead so many seconds ago."""
        decisions, ahead = rig.decisions(tag), ahead_of(claim_of(tag))
        (answer,) = rig.store.begin_all([(ahead, None)])
        decisions.claimed(ahead, answer, commit_group.time.monotonic() - ago)
        return decisions

    def deliveries(self, rig: Rig, tag: int) -> int:
        return rig.store._unit(claim_of(tag)).deliveries

    def test_the_handler_begins_without_another_question(self, rig: Rig) -> None:
        decisions = self.asked(rig, 1)

        assert decisions.begin(claim_of(1)).verdict is Verdict.RUN
        assert self.deliveries(rig, 1) == 0
        decisions.commit(claim_of(1), Settlement())
        assert rig.is_done(1)

    def test_a_handler_whose_turn_comes_late_asks_again(self, rig: Rig) -> None:
        assert CERTAIN_SECONDS < AHEAD_SECONDS
        decisions = self.asked(rig, 1, ago=CERTAIN_SECONDS)

        assert decisions.begin(claim_of(1)).verdict is Verdict.RUN
        assert self.deliveries(rig, 1) == 1

    def test_a_handler_that_runs_for_long_counts_as_begun(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commit_group, "LONG_SECONDS", 0.0)
        monkeypatch.setattr(commit_group, "LATEST_SECONDS", 0.01)
        decisions = self.asked(rig, 1)

        decisions.begin(claim_of(1))

        eventually(lambda: self.deliveries(rig, 1) == 1)

    def test_a_second_copy_asks_again_after_the_first_is_committed(self, rig: Rig) -> None:
        rig.waiting = 1
        first, second = rig.decisions(1), rig.decisions(2)
        one, other = claim_of(1), Claim(HANDLER, "e-1", "token-2")
        answers = rig.store.begin_all([(one, None), (ahead_of(other), None)])
        first.claimed(one, answers[0], commit_group.time.monotonic())
        second.claimed(ahead_of(other), answers[1], commit_group.time.monotonic())

        assert first.begin(one).verdict is Verdict.RUN
        first.commit(one, Settlement())

        assert second.begin(other).verdict is Verdict.DONE

    def test_what_is_finished_or_waits_is_not_asked_about_again(self, rig: Rig) -> None:
        decisions = rig.decisions(1)
        decisions.claimed(ahead_of(claim_of(1)), ClaimResult(Verdict.WAIT, 1), commit_group.time.monotonic())

        assert decisions.begin(claim_of(1)).verdict is Verdict.WAIT

    def test_a_part_whose_answer_was_lost_is_no_duplicate(self, rig: Rig) -> None:
        decisions, claim = rig.decisions(1), Claim(HANDLER, "join:1", "token-1")
        arrival = Arrival("a", "a", "<a>", {"a": None, "b": None}, 2, 60.0)
        rig.store.arrive(claim, arrival)
        decisions.claimed(ahead_of(claim), StoreError("lost"), commit_group.time.monotonic())

        assert decisions.arrive(claim, arrival).verdict is Verdict.WAIT
        assert rig.store.tally(HANDLER) == {}

    def test_a_worker_that_stops_asks_again(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        decisions = self.asked(rig, 1)
        monkeypatch.setattr("choreo.fast.rabbit_decisions.is_stopping", lambda: True)

        assert decisions.begin(claim_of(1)).verdict is Verdict.RUN
        assert self.deliveries(rig, 1) == 1
        assert not rig.decisions(2).is_together
