"""Commits that are sent ahead: a worker with an event loop does not wait for each answer, and loses nothing by it."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Away
from redis.exceptions import ResponseError

from choreo.broker import workload
from choreo.broker.queue import HandlerQueue
from choreo.broker.redis.keys import INBOX
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.fast import commits as under_way
from choreo.fast.channel import ChannelLane, commits_of
from choreo.fast.commits import Commit, Commits, Fate, Header
from choreo.fast.decisions import FastDecisions
from choreo.fast.fused_store import FusedStore
from choreo.fast.lane import Lane
from choreo.redis_client.scripts import Script, source_of
from choreo.store import Claim, ClaimResult, CommitResult, Outcome, Scheduled, Settlement, Verdict
from tests.contract.place import HANDLER, Place, Worker
from tests.contract.redis_broker import TIMEOUT, proxy_to
from tests.unit.events import identity_of
from tests.waiting import DEADLINE, eventually

#: Puts a text in the place of the hash in which a unit would be remembered now.
INBOX_SPOILT = f"""{source_of("redis_client/inbox")}
local time = redis.call('TIME')
local slot = inbox_slot(tonumber(ARGV[3]), time[1] * 1000)
redis.call('SET', string.format('%s%.0f:%s', ARGV[1], slot, inbox_place(ARGV[2])[1]), 'not ours')"""


class Told:
    """A fused store. It notes the answers to commits that were sent ahead, and the commits that were not."""

    def __init__(self, store: FusedStore) -> None:
        self._store = store
        self.heard: list[Any] = []
        self.waited: list[Claim] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit_result_of(self, *answer: Any) -> CommitResult | StoreError:
        self.heard.append(self._store.commit_result_of(*answer))
        return self.heard[-1]

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        self.waited.append(claim)
        return self._store.commit(claim, settlement)


class Line:
    """A worker's line, and what was heard on it. It is the publisher, too, and notes what reached no queue."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.store: Any = Told(worker.place.store)
        self.unheard: list[Message] = []
        worker.channel.hooks = lane = ChannelLane(worker.channel)
        self.commits: Commits = lane.commits

    def commit(self, unit: str, number: int = 0, **settlement: Any) -> CommitResult:
        """Commit what was taken, ahead."""
        return self.settle(self.worker.claim(unit, number), number, **settlement)

    def settle(self, claim: Claim, number: int, **settlement: Any) -> CommitResult:
        """Settle a claim in the hands of this delivery."""
        return self._held(number).commit(claim, Settlement(**settlement))

    def send(self, unit: str, number: int = 0, **settlement: Any) -> None:
        """Send any settlement ahead, also a failure, whose answer a delivery waits for."""
        claim, settled = self.worker.claim(unit, number), Settlement(**settlement)

        def on_answer(answer: Any, repeated: bool) -> Fate:
            return (
                Fate.BACK
                if isinstance(self.store.commit_result_of(answer, settled, repeated), StoreError)
                else Fate.GONE
            )

        commit = Commit(claim.token, self.store.header(claim), self.store.commit_args(claim, settled), on_answer)
        assert self.commits.send(commit)

    def begin(self, unit: str, number: int = 0) -> ClaimResult:
        """Begin what was taken so long ago that the store has to be asked."""
        return self._held(number, certain_until=0.0).begin(self.worker.claim(unit, number))

    def _held(self, number: int, **changes: Any) -> FastDecisions:
        publisher: Any = self
        return FastDecisions(self.store, publisher, replace(self.worker.receipt(number), **changes), self.commits)

    def note_unheard(self, messages: Sequence[Message]) -> None:
        self.unheard += messages

    @property
    def heard(self) -> list[Any]:
        """The answers to the commits that were sent ahead."""
        return self.store.heard

    @property
    def outcomes(self) -> list[Outcome]:
        return [committed.outcome for committed in self.heard]


class Crowd(Line):
    """A line on which more deliveries wait; each is begun and handled in no time."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.more = True
        self.commits._more = lambda: self.more

    def handle(self, unit: str, number: int, *, alone: bool = False) -> None:
        self.commits.begin(alone=alone)
        self.commit(unit, number)

    def reached(self, place: Place) -> int:
        """How many commits Redis has carried out."""
        return len(self.worker.messages) - sum(place.corner.in_flight().values())


@pytest.fixture
def crowd(place: Place, worker: Worker, unhurried: None) -> Crowd:
    return Crowd(worker)


@pytest.fixture
def line(worker: Worker) -> Line:
    return Line(worker)


def send(place: Place, count: int) -> list[str]:
    units = [f"e-{number}" for number in range(count)]
    for unit in units:
        place.send(unit)
    return units


def test_a_commit_that_is_sent_ahead_is_heard_of_later_and_acks_its_copy(
    place: Place, worker: Worker, line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(under_way, "OLD_SECONDS", 600.0)
    (unit,) = send(place, 1)
    worker.take()

    assert line.commit(unit).outcome is Outcome.OK
    assert line.heard == line.store.waited == []
    worker.messages[0].ack()
    line.commits.settle()

    assert line.outcomes == [Outcome.OK]
    assert place.corner.in_flight() == {}
    assert not worker.channel.own().has_acks, "the commit is the ack"
    assert place.ask(unit).verdict == "done"


def test_many_commits_are_answered_in_one_go_and_no_more_than_that_are_under_way(
    place: Place,
    worker: Worker,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(under_way, "MOST_UNANSWERED", 32)
    units = send(place, 35)
    worker.take(len(units))

    for number, unit in enumerate(units):
        line.commit(unit, number)
    assert len(line.heard) == 32
    line.commits.settle()

    assert line.outcomes == [Outcome.OK] * len(units)
    assert place.corner.in_flight() == {}


def test_what_is_announced_ahead_arrives_at_once(
    place: Place, worker: Worker, line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(under_way, "OLD_SECONDS", 600.0)
    (unit,) = send(place, 1)
    worker.take()

    line.commit(unit, sent={"event:1": Message("", "somewhere", b"{}", {})})

    eventually(lambda: place.corner.waiting("somewhere"))
    assert line.heard == [], "nobody has read the answer yet"


def test_an_event_that_was_announced_ahead_and_reached_no_queue_is_counted(place: Place, worker: Worker, line: Line):
    (unit,) = send(place, 1)
    worker.take()

    line.commit(unit, sent={"event:1": Message("choreo.events", "nobody", b"{}", {})})
    assert line.unheard == []
    line.commits.settle()

    assert [message.routing_key for message in line.unheard] == ["nobody"]


def test_the_answer_to_a_retry_is_waited_for(place: Place, worker: Worker, line: Line):
    (unit,) = send(place, 1)
    worker.take()

    line.commit(unit, done=False)

    assert line.heard == []
    assert [claim.unit for claim in line.store.waited] == [identity_of(unit)]
    assert place.ask(unit).verdict is Verdict.DONE, "this attempt"


def test_a_refused_commit_gives_its_copy_back_and_the_next_one_waits_for_its_answer(
    place: Place,
    worker: Worker,
    line: Line,
):
    bad, good = send(place, 2)
    worker.take(2)
    place.corner.redis.set(f"{place.corner.prefix}somewhere", "not a queue")

    line.commit(bad, sent={"event:1": Message("", "somewhere", b"{}", {})})
    line.commit(good, 1)
    worker.messages[0].ack()
    line.commits.settle()

    assert "WRONGTYPE" in str(line.heard[0])
    assert line.heard[1].outcome is Outcome.OK
    back = eventually(lambda: place.corner.waiting(HANDLER))
    assert back[0]["headers"]["id"] == bad
    assert back[0]["headers"]["x-delivery-count"] == 1
    assert not line.commits.send(Commit("t", None, (), lambda *_: Fate.GONE)), "nothing is sent ahead for a while"


@pytest.mark.parametrize("key", ["due", "messages", "letters", "letters:index", "done:", "unit:"])
def test_a_commit_that_meets_a_key_of_somebody_elses_loses_nothing(
    place: Place, worker: Worker, crowd: Crowd, key: str
):
    units = send(place, 3)
    worker.take(3)
    start = f"{place.namespace}:choreo:{{{HANDLER}}}:"
    redis, bad = place.corner.redis, units[1]
    if key == "done:":
        redis.eval(INBOX_SPOILT, 0, f"{start}done:", identity_of(bad), 3_600_000)
    else:
        name = f"{start}unit:{identity_of(bad)}" if key == "unit:" else start + key
        redis.delete(name)
        redis.set(name, "not ours")
    wanted = {
        "sent": {"event:1": Message("", "somewhere", b"{}", {})},
        "scheduled": [Scheduled("event:2", Message("", HANDLER, b"{}", {}), 60.0)],
        "letter": ("l-1", "{}") if key.startswith("letters") else None,
    }

    for number, unit in enumerate(units):
        crowd.commits.begin(alone=False)
        crowd.send(unit, number, **(wanted if unit == bad else {}))
    crowd.commits.settle()

    assert [type(heard) for heard in crowd.heard] == [CommitResult, StoreError, CommitResult]
    assert [crowd.heard[0].outcome, crowd.heard[2].outcome] == [Outcome.OK] * 2
    assert place.corner.waiting("somewhere") == []
    back = eventually(lambda: place.corner.waiting(HANDLER))
    assert [message["headers"]["id"] for message in back] == [bad]
    # Whoever takes it again does not find it done.
    again = Worker(place)
    assert again.take()[0].headers["id"] == bad


def test_the_answer_to_a_dead_letter_is_waited_for(place: Place, worker: Worker, crowd: Crowd):
    units = send(place, 3)
    worker.take(3)
    place.corner.redis.set(f"{place.namespace}:choreo:{{{HANDLER}}}:letters", "not ours")
    sent = {"event:1": Message("", "somewhere", b"{}", {})}

    crowd.handle(units[0], 0)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        crowd.commit(units[1], 1, letter=("l-1", "{}"), sent=sent)
    crowd.handle(units[2], 2)
    crowd.commits.settle()

    assert crowd.outcomes == [Outcome.OK] * 2
    assert [claim.unit for claim in crowd.store.waited] == [identity_of(units[1])]
    assert place.corner.waiting("somewhere") == []
    assert sum(place.corner.in_flight().values()) == 1
    worker.messages[1].requeue()
    again = Worker(place)
    assert again.take()[0].headers["id"] == units[1]
    assert place.store.begin(again.claim(units[1])).verdict is Verdict.RUN


def test_a_connection_over_which_a_commit_was_refused_is_not_asked_again(place: Place, worker: Worker):
    refused, fine = send(place, 2)
    worker.take(2)
    place.corner.redis.set(f"{place.corner.prefix}somewhere", "not a queue")
    place.store.begin(worker.claim(fine, 1))
    (before,) = place.store._calls._wires

    # As a master refuses that is none any more.
    with pytest.raises(StoreError, match="WRONGTYPE"):
        place.store.commit(worker.claim(refused), Settlement(sent={"event:1": Message("", "somewhere", b"{}", {})}))
    assert place.store.commit(worker.claim(fine, 1), Settlement()).outcome is Outcome.OK

    assert before not in place.store._calls._wires


def test_when_redis_has_forgotten_the_script_and_goes_away_each_commit_is_not_waited_for(
    place: Place, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = Worker(place, url=proxied(redis_url, proxy.port), socket_timeout=1)
        line = Line(worker)
        units = send(place, 20)
        worker.take(len(units))
        calls: list[Any] = []

        def away(*_: Any) -> Any:
            calls.append(1)
            raise Away("gone")

        place.corner.redis.script_flush()
        for number, unit in enumerate(units):
            line.commit(unit, number)
        monkeypatch.setattr(line.commits._wire, "call", away)
        line.commits.settle()

        assert len(line.heard) == len(units)
        assert len(calls) == len(under_way.PAUSE_SECONDS)
        monkeypatch.undo()


def test_a_copy_whose_commit_is_refused_before_celery_acks_it_goes_back_all_the_same(
    place: Place, worker: Worker, line: Line, monkeypatch: pytest.MonkeyPatch
):
    (unit,) = send(place, 1)
    worker.take()
    place.corner.redis.set(f"{place.corner.prefix}somewhere", "not a queue")
    line.commit(unit, sent={"event:1": Message("", "somewhere", b"{}", {})})

    with monkeypatch.context() as slow:
        slow.setattr(worker.channel.own(), "_catch_up", lambda: None)
        line.commits.settle()
        worker.messages[0].ack()
        assert sum(place.corner.in_flight().values()) == 1, "it is still on its way back"

    assert eventually(lambda: place.corner.waiting(HANDLER))[0]["headers"]["id"] == unit


def test_a_claim_that_the_store_has_forgotten_gives_its_copy_back(place: Place, worker: Worker, line: Line):
    (unit,) = send(place, 1)
    worker.take()
    place.corner.redis.delete(f"{place.namespace}:choreo:{{{HANDLER}}}:unit:{identity_of(unit)}")

    line.commit(unit)
    line.commits.settle()

    assert "forgotten" in str(line.heard[0])
    assert eventually(lambda: place.corner.waiting(HANDLER))[0]["headers"]["id"] == unit


def test_a_copy_that_somebody_else_has_settled_is_acked(place: Place, worker: Worker, line: Line):
    (unit,) = send(place, 1)
    worker.take()
    place.corner.redis.hset(f"{place.namespace}:choreo:{{{HANDLER}}}:unit:{identity_of(unit)}", "token", "somebody")

    line.commit(unit)
    worker.messages[0].ack()
    line.commits.settle()
    worker.channel.flush_acks()

    assert line.outcomes == [Outcome.STALE]
    assert place.corner.in_flight() == {}


@contextmanager
def busy(commits: Commits) -> Iterator[threading.Thread]:
    """Another thread, which waits on the line for as long as the block runs, or until the deadline."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with commits._lock:
            held.set()
            over.wait(DEADLINE)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(DEADLINE)
    try:
        yield other
    finally:
        over.set()
        other.join()


def test_commits_of_short_handlers_go_out_together(place: Place, worker: Worker, crowd: Crowd):
    units = send(place, under_way.MOST_TOGETHER)
    worker.take(len(units))

    for number, unit in enumerate(units[:-1]):
        crowd.handle(unit, number)
    assert crowd.reached(place) == 0
    crowd.handle(units[-1], len(units) - 1)

    eventually(lambda: crowd.reached(place) == len(units))
    crowd.commits.settle()
    assert crowd.outcomes == [Outcome.OK] * len(units)


def test_what_goes_out_together_is_one_command_and_each_has_its_own_answer(
    place: Place, worker: Worker, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
):
    pushed: list[int] = []
    push = crowd.commits._wire.push
    monkeypatch.setattr(crowd.commits._wire, "push", lambda packed, count: (pushed.append(count), push(packed, count)))
    done, refused, taken, retried, announced = units = send(place, 5)
    worker.take(5)
    place.corner.redis.set(f"{place.corner.prefix}nothing", "not a queue")
    place.corner.redis.hset(f"{place.namespace}:choreo:{{{HANDLER}}}:unit:{identity_of(taken)}", "token", "another's")
    letter = Message("", HANDLER, b"{}", {})
    settlements: dict[str, dict[str, Any]] = {
        refused: {"sent": {"event:1": Message("", "nothing", b"{}", {})}},
        retried: {"done": False, "scheduled": [Scheduled("retry:1", letter, 60.0)], "remember": 7200.0},
        announced: {
            "sent": {"event:2": Message("", "somewhere", b"{}", {}), "event:3": Message("events", "nobody", b"{}", {})},
            "scheduled": [Scheduled("event:4", letter, 60.0)],
            "unscheduled": ["retry:1"],
        },
    }

    for number, unit in enumerate(units):
        crowd.commits.begin(alone=False)
        crowd.send(unit, number, **settlements.get(unit, {}))
    crowd.commits.settle()

    assert pushed == [1]
    assert "WRONGTYPE" in str(crowd.heard[1])
    others = [crowd.heard[number] for number in (0, 2, 3, 4)]
    assert [one.outcome for one in others] == [Outcome.OK, Outcome.STALE, Outcome.OK, Outcome.OK]
    assert [message.routing_key for message in others[3].unheard] == ["nobody"]
    assert len(place.corner.waiting("somewhere")) == 1
    assert [key for key, _ in place.store.due(HANDLER, 9, 1.0)] == []
    assert place.store.backlog(HANDLER).later == 1, "the second has called off what the first had scheduled"
    assert [place.ask(unit, attempt=2).verdict for unit in (done, retried, announced)] == ["done", "run", "done"]
    back = eventually(lambda: place.corner.waiting(HANDLER))
    assert [message["headers"]["id"] for message in back] == [refused]


def test_commits_of_several_handlers_are_answered_in_their_order(place: Place, worker: Worker, crowd: Crowd):
    first, last = send(place, 2)
    worker.take(2)

    crowd.handle(first, 0)
    # Nobody has claimed anything for this one.
    stranger = replace(worker.claim(first), handler="payment.refund")
    crowd.commits.begin(alone=False)
    crowd.settle(stranger, 0)
    crowd.handle(last, 1)
    crowd.commits.settle()

    assert "forgotten" in str(crowd.heard[1])
    assert [crowd.heard[0].outcome, crowd.heard[2].outcome] == [Outcome.OK] * 2


def test_who_reads_what_was_sent_before_does_not_wait_for_what_was_sent_later(place: Place, worker: Worker, line: Line):
    first, second = send(place, 2)
    worker.take(2)
    line.commit(first)
    before = line.commits.sent
    line.commit(second, 1)

    line.commits.settle(sent_before=before)
    assert line.outcomes == [Outcome.OK]

    line.commits.settle()
    assert line.outcomes == [Outcome.OK] * 2


def test_a_commit_that_nothing_follows_goes_out_at_once_with_those_before_it(
    place: Place, worker: Worker, crowd: Crowd
):
    first, second = send(place, 2)
    worker.take(2)

    crowd.handle(first, 0)
    crowd.more = False
    crowd.handle(second, 1)

    eventually(lambda: crowd.reached(place) == 2)


def test_the_commit_of_a_longer_handler_goes_out_at_once(
    place: Place, worker: Worker, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
):
    (unit,) = send(place, 1)
    worker.take()
    monkeypatch.setattr(under_way, "QUICK_SECONDS", 0.0)

    crowd.handle(unit, 0)

    eventually(lambda: crowd.reached(place) == 1)


def test_no_commit_waits_while_something_runs_that_was_delivered_before(place: Place, worker: Worker, crowd: Crowd):
    first, second = send(place, 2)
    worker.take(2)

    crowd.handle(first, 0)
    crowd.commits.begin(alone=True)

    eventually(lambda: crowd.reached(place) == 1)
    crowd.commit(second, 1)
    eventually(lambda: crowd.reached(place) == 2)


def test_what_is_like_in_one_thread_says_nothing_of_another(place: Place, worker: Worker, crowd: Crowd):
    first, second = send(place, 2)
    worker.take(2)
    crowd.commits.begin(alone=False)

    # No handler has begun in that thread, as far as the line knows: nothing speaks for waiting.
    apart = threading.Thread(target=crowd.commit, args=(second, 1))
    apart.start()
    apart.join()
    eventually(lambda: crowd.reached(place) == 1)
    crowd.commit(first, 0)

    assert crowd.reached(place) == 1, "it waits for others"


def test_many_threads_commit_on_one_line_and_each_is_heard_of_once(place: Place, worker: Worker):
    crowd, threads, each = Crowd(worker), 8, 25
    units = send(place, threads * each)
    worker.channel.basic_qos(0, len(units), False)
    worker.take(len(units))

    def work(first: int) -> None:
        for number in range(first, first + each):
            crowd.handle(units[number], number)
            worker.messages[number].ack()

    workers = [threading.Thread(target=work, args=(number * each,)) for number in range(threads)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    crowd.commits.settle()

    assert crowd.outcomes == [Outcome.OK] * len(units)
    assert place.corner.in_flight() == {}
    assert {place.ask(unit).verdict for unit in units} == {Verdict.DONE}


def test_a_question_does_not_wait_for_another_thread_that_waits(place: Place, worker: Worker, crowd: Crowd):
    (unit,) = send(place, 1)
    worker.take()

    with busy(crowd.commits) as other:
        assert crowd.begin(unit).verdict is Verdict.RUN
        assert other.is_alive()


def test_what_is_handled_after_the_line_was_closed_waits_for_its_answer(place: Place, worker: Worker, line: Line):
    first, second = send(place, 2)
    worker.take(2)
    line.commits.close()

    assert line.commit(first).outcome is Outcome.OK
    assert line.begin(second, 1).verdict is Verdict.RUN
    assert line.heard == []
    assert [claim.unit for claim in line.store.waited] == [identity_of(first)]


def test_a_long_handler_does_not_hold_up_the_commits_before_it(
    place: Place, worker: Worker, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(under_way, "LATEST_SECONDS", 0.01)
    first, second = send(place, 2)
    worker.take(2)

    for number, unit in enumerate((first, second), 1):
        crowd.handle(unit, number - 1)
        eventually(lambda number=number: crowd.reached(place) == number, reason="nobody but the thread sends it")


def test_what_waits_is_sent_before_answers_are_read(place: Place, worker: Worker, crowd: Crowd):
    (unit,) = send(place, 1)
    worker.take()
    crowd.handle(unit, 0)

    crowd.commits.settle()

    assert crowd.outcomes == [Outcome.OK]


def test_what_waits_when_redis_goes_away_is_sent_when_it_is_back(
    place: Place, redis_url: str, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
):
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = Worker(place, url=proxied(redis_url, proxy.port), socket_timeout=1)
        line = Crowd(worker)
        units = send(place, 4)
        # The other worker of these tests takes nothing.
        worker.take(4)
        line.handle(units[0], 0, alone=True)
        for number in (1, 2, 3):
            line.handle(units[number], number)
        proxy.cut()

        line.commits.settle()

        assert set(line.outcomes) <= {Outcome.OK, Outcome.ALREADY}
        assert [place.ask(unit).verdict for unit in units] == ["done"] * 4


def test_a_question_to_the_store_takes_along_the_commits_that_wait(place: Place, worker: Worker, crowd: Crowd):
    first, second = send(place, 2)
    worker.take(2)
    crowd.handle(first, 0)

    result = crowd.begin(second, 1)

    assert result.verdict is Verdict.RUN
    assert crowd.reached(place) == 1
    assert crowd.outcomes == [Outcome.OK]


def test_a_question_is_answered_though_redis_has_forgotten_all_scripts(place: Place, worker: Worker, crowd: Crowd):
    first, second = send(place, 2)
    worker.take(2)
    crowd.handle(first, 0)
    place.corner.redis.script_flush()

    result = crowd.begin(second, 1)

    assert result.verdict is Verdict.RUN
    assert crowd.outcomes == [Outcome.OK]
    crowd.commit(second, 1)
    crowd.commits.settle()
    assert crowd.outcomes == [Outcome.OK] * 2


@pytest.mark.parametrize("mode", ["drop_down", "stall"])
def test_a_question_is_answered_though_the_line_breaks(
    place: Place,
    redis_url: str,
    crowd: Crowd,
    mode: str,
):
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = Worker(place, url=proxied(redis_url, proxy.port), socket_timeout=1)
        line = Crowd(worker)
        units = send(place, 3)
        worker.take(3)
        line.handle(units[0], 0, alone=True)
        line.commits.settle()
        line.handle(units[1], 1)
        proxy.set(mode)
        threading.Timer(0.3, lambda: (proxy.cut(), proxy.set("ok"))).start()

        result = line.begin(units[2], 2)

        assert result.verdict is Verdict.RUN
        line.commits.settle()
        assert line.outcomes[0] is Outcome.OK
        assert line.outcomes[1] in (Outcome.OK, Outcome.ALREADY)
        assert [place.ask(unit).verdict for unit in units[:2]] == ["done"] * 2


@pytest.mark.parametrize("when", ["before it was carried out", "after it was carried out"])
def test_a_commit_whose_answer_is_lost_with_the_connection_is_sent_again(
    place: Place,
    when: str,
    redis_url: str,
):
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = Worker(place, url=proxied(redis_url, proxy.port), socket_timeout=1)
        line = Line(worker)
        units = send(place, 3)
        worker.take(3)
        line.commit(units[0])
        line.commits.settle()

        proxy.set("stall" if when.startswith("before") else "drop_down")
        for number in (1, 2):
            line.commit(units[number], number)
        if when.startswith("after"):
            eventually(lambda: not place.corner.in_flight())
        proxy.cut()
        proxy.set("ok")
        line.commits.settle()

        assert line.outcomes[0] is Outcome.OK
        assert set(line.outcomes[1:]) <= {Outcome.OK, Outcome.ALREADY}
        # Nobody else had them.
        assert all(committed.repeated for committed in line.heard if committed.outcome is not Outcome.OK)
        assert [place.ask(unit).verdict for unit in units] == ["done"] * 3
        worker.channel.flush_acks()
        assert place.corner.in_flight() == {}


def test_what_cannot_be_committed_while_redis_is_away_goes_back_when_it_is_there_again(
    place: Place,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(under_way, "PAUSE_SECONDS", (0.0, 0.1))
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = Worker(place, url=proxied(redis_url, proxy.port), socket_timeout=1)
        line = Line(worker)
        units = send(place, 2)
        worker.take(2)
        proxy.set("refuse")
        proxy.cut()

        for number, unit in enumerate(units):
            line.commit(unit, number)
        line.commits.settle()
        assert len(line.heard) >= 1
        proxy.set("ok")

        eventually(lambda: [m["headers"]["id"] for m in place.corner.waiting(HANDLER)] == units[: len(line.heard)])
        assert "x-delivery-count" not in place.corner.waiting(HANDLER)[0]["headers"]


def test_a_copy_that_goes_back_is_not_acked_although_its_channel_is_closed_by_then(
    place: Place, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(under_way, "PAUSE_SECONDS", (0.0,))
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = Worker(place, url=proxied(redis_url, proxy.port), socket_timeout=1)
        line = Line(worker)
        (unit,) = send(place, 1)
        worker.take()
        # As in a worker that lost its connection: the handler goes on, and its message is acked afterwards.
        monkeypatch.setattr(workload, "goes_on_with", lambda _: True)
        proxy.set("refuse")
        proxy.cut()

        line.commit(unit)
        worker.channel.close()
        message = worker.messages.pop()
        message.ack()
        assert "Connection" in str(line.heard[0])
        proxy.set("ok")
        del message

        assert eventually(lambda: place.corner.waiting(HANDLER))[0]["headers"]["id"] == unit


def test_a_line_that_does_not_answer_does_not_make_its_worker_look_dead(
    place: Place, worker: Worker, line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(under_way, "OLD_SECONDS", 0.0)
    send(place, 2)
    worker.take(2)
    line.commit("e-0")
    with busy(line.commits) as waiting:
        other = Worker(place)
        other.channel.own()

        assert other.takes_nothing(2.5 * TIMEOUT)
        assert waiting.is_alive()
    assert sum(place.corner.in_flight().values()) >= 1


def test_the_event_loop_does_not_wait_for_a_thread_that_waits(place: Place, worker: Worker, line: Line):
    with busy(line.commits):
        began = time.monotonic()
        line.commits._pending.append(Commit("t", None, (), lambda *_: Fate.GONE))
        line.commits._unsent.append(b"")

        line.commits.settle(wait=False)
        line.commits.flush(wait=False)

        assert time.monotonic() - began < DEADLINE / 2
        line.commits._pending.clear()
        line.commits._unsent.clear()


def test_what_cannot_be_sent_leaves_the_others_in_order(place: Place, worker: Worker, crowd: Crowd):
    first, second = send(place, 2)
    worker.take(2)
    crowd.handle(first, 0)
    half = Commit("t", Header(Script.load("fast/commit_fused"), (), ()), ["\ud800"], lambda *_: Fate.GONE)

    with pytest.raises(UnicodeEncodeError):
        crowd.commits.send(half)
    with pytest.raises(UnicodeEncodeError):
        crowd.commits.ask(half.header.script, (), half.args)
    crowd.handle(second, 1)
    crowd.commits.settle()

    assert crowd.outcomes == [Outcome.OK] * 2
    assert not crowd.commits.decides("t")


def test_the_answers_are_read_while_a_handler_runs_for_long(
    place: Place,
    worker: Worker,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(under_way, "OLD_SECONDS", 0.0)
    (unit,) = send(place, 1)
    worker.take()

    line.commit(unit)

    eventually(lambda: line.heard)
    assert line.outcomes == [Outcome.OK]


def test_a_pause_between_two_commits_does_not_make_their_answers_be_missed(place: Place, worker: Worker, line: Line):
    first, second = send(place, 2)
    worker.take(2)

    line.commit(first)
    time.sleep(0.2)  # longer than a connection is trusted without a look, shorter than an answer may wait
    began = time.monotonic()
    line.commit(second, 1)
    line.commits.settle()

    assert line.outcomes == [Outcome.OK] * 2
    assert time.monotonic() - began < DEADLINE / 2, "no answer was waited for in vain"


def test_a_channel_that_closes_hears_of_its_commits_first(place: Place, worker: Worker, line: Line):
    (unit,) = send(place, 1)
    worker.take()
    line.commit(unit)

    worker.go()

    assert line.outcomes == [Outcome.OK]
    assert place.corner.waiting(HANDLER) == []


def test_a_server_that_was_just_started_knows_the_scripts_before_the_first_commit_is_sent_ahead(
    place: Place, worker: Worker
):
    """Else the answer to the first commit, that the script is unknown, would be read a second later."""
    scripts = [Script.load(name).sha for name in ("fast/commit_fused", "store/begin", "store/arrive")]
    worker.connection.transport.cycle.hub = object()
    place.corner.redis.script_flush()

    Lane(lambda: place.store, dict).on_consume(HandlerQueue(HANDLER, channel=worker.channel, handler=HANDLER))

    assert place.corner.redis.script_exists(*scripts) == [True, True, True]
    worker.connection.transport.cycle.hub = None


def test_without_an_event_loop_nothing_is_sent_ahead(place: Place, worker: Worker):
    queue = HandlerQueue(HANDLER, channel=worker.channel, handler=HANDLER)
    lane = Lane(lambda: place.store, dict)

    assert lane.on_consume(queue) == {INBOX: place.store.inbox(HANDLER)}
    assert commits_of(worker.channel) is None

    worker.connection.transport.cycle.hub = object()
    lane.on_consume(queue)
    assert isinstance(commits_of(worker.channel), Commits)
    worker.connection.transport.cycle.hub = None


@pytest.mark.parametrize(
    ("error", "counted"),
    [(Away("gone"), False), (ResponseError("OOM command not allowed"), False), (ResponseError("WRONGTYPE"), True)],
)
def test_what_a_failure_counts(error: Exception, counted: bool):
    told: list[Any] = []

    class Owner:
        def return_soon(self, tags: list[str], *, counted: bool) -> None:
            told.append((tags, counted))

    commits = Commits(None, Owner)
    commits._finish(Commit("t", None, (), lambda *_: Fate.BACK), error)

    assert told == [(["t"], counted)]


def proxied(url: str, port: int) -> str:
    head, _, tail = url.rpartition(":")
    return f"{head}:{port}/{tail.partition('/')[2]}"
