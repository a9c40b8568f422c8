"""Taking is beginning: what a worker takes from a handler's queue is claimed in the same step, where Redis is both."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from choreo import Envelope, Event, Service
from choreo.broker.queue import HandlerQueue
from choreo.broker.redis import ownership
from choreo.broker.redis.keys import INBOX
from choreo.events.ids import identity
from choreo.events.message import Message
from choreo.store import Claim, ClaimResult, Outcome, Scheduled, Settlement, Verdict
from tests.contract.place import HANDLER, RUN, Place, Worker
from tests.contract.redis_broker import TIMEOUT
from tests.contract.rigs import replay
from tests.unit.events import envelope, identity_of

BEGUN_AGAIN = ClaimResult(Verdict.RUN, deliveries=2)


def test_what_is_taken_is_claimed_by_the_taker(place: Place, worker: Worker):
    place.send("e-1")

    worker.take()

    assert worker.holds("e-1")
    assert not worker.holds("e-2")
    assert not worker.holds("e-1", attempt=2)
    assert place.ask("e-1") == ClaimResult(Verdict.BUSY, busy_seconds=30)


def test_the_commit_of_what_was_taken_acks_it(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()

    assert place.store.commit(worker.claim("e-1"), Settlement()).outcome is Outcome.OK

    assert place.corner.in_flight() == {}
    assert place.unit("e-1") == {}
    # Celery's own ack comes later, and does no harm.
    worker.messages[0].ack()
    worker.go()
    assert place.corner.waiting(HANDLER) == []


@pytest.mark.parametrize("settlement", [Settlement(done=False), Settlement(letter=("l-1", "{}"))])
def test_a_failed_attempt_and_a_dead_letter_ack_as_well(place: Place, worker: Worker, settlement: Settlement):
    place.send("e-1")
    worker.take()

    assert place.store.commit(worker.claim("e-1"), settlement).outcome is Outcome.OK

    assert place.corner.in_flight() == {}


def test_what_was_done_before_is_dropped_and_counted(place: Place, worker: Worker):
    place.store.begin(Claim(HANDLER, identity_of("e-1"), "A"))
    place.store.commit(Claim(HANDLER, identity_of("e-1"), "A"), Settlement())

    place.send("e-1")
    place.send("e-2")

    assert json.loads(worker.take()[0].body)[0][0]["id"] == "e-2"
    assert len(worker.messages) == 1
    assert place.repeated() == 1
    assert sum(place.corner.in_flight().values()) == 1
    assert place.corner.waiting(HANDLER) == []


ONE_ID = ["7", "join:7", "a#b", "a b", "7e3e1f80-B280-5c42-ac97-d3c403bf4d4b"]


@pytest.mark.parametrize("event_id", ONE_ID)
@pytest.mark.parametrize(
    "sources", [("shop", "till"), ("https://example.org/a", "/a b"), ("a#b", "a%23b"), ("ä", 'q"')]
)
def test_events_of_two_sources_with_one_id_are_two_units(place: Place, worker: Worker, sources, event_id: str):
    units = [identity(source, event_id) for source in sources]
    done = Claim(HANDLER, units[0], "A")
    place.store.begin(done)
    place.store.commit(done, Settlement())

    place.send(event_id, source=sources[1])
    worker.take()

    claim = Claim(HANDLER, units[1], worker.receipt().tag)
    assert worker.receipt().claim in (f"1 {units[1]}", "")
    assert place.store.begin(claim) == RUN
    assert place.store.commit(claim, Settlement()).outcome is Outcome.OK

    assert place.store.begin(Claim(HANDLER, units[1], "B")).verdict is Verdict.DONE


def test_an_event_of_choreo_is_claimed_and_dropped_under_its_id_alone(place: Place, worker: Worker):
    event_id = str(uuid4())
    place.send(event_id)

    worker.take()

    assert worker.receipt().claim == f"1 {event_id}"


def test_what_is_a_dead_letter_is_dropped_as_well_until_it_is_replayed(place: Place, worker: Worker):
    place.store.begin(Claim(HANDLER, identity_of("e-1"), "A"))
    place.store.commit(Claim(HANDLER, identity_of("e-1"), "A"), Settlement(letter=("l-1", "{}")))
    again = Scheduled("replay:l-1", Message("", HANDLER, b"", {}))

    place.send("e-1")
    assert worker.takes_nothing()
    assert place.repeated() == 1

    assert replay(place.store, HANDLER, "l-1", identity_of("e-1"), {}, again)
    place.send("e-1")
    worker.take()
    assert worker.holds("e-1")


def test_of_two_copies_taken_together_one_is_claimed(place: Place, worker: Worker):
    place.send("e-1")
    place.send("e-1")

    worker.take(2)

    assert (worker.holds("e-1", 0), worker.holds("e-1", 1)) == (True, False)
    assert place.store.begin(worker.claim("e-1", 1)).verdict is Verdict.BUSY


def test_of_two_copies_taken_by_two_workers_one_is_claimed(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    place.send("e-1")
    other = Worker(place)
    other.take()

    assert worker.holds("e-1")
    assert not other.holds("e-1")
    assert place.store.begin(other.claim("e-1")).verdict is Verdict.BUSY

    place.store.commit(worker.claim("e-1"), Settlement())
    assert place.store.begin(other.claim("e-1")).verdict is Verdict.DONE


def test_a_retry_is_claimed_as_the_next_attempt_and_no_attempt_is_made_twice(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    place.store.commit(worker.claim("e-1"), Settlement(done=False))

    place.send("e-1", retries=0)
    place.send("e-1", retries=1)
    worker.take(2)

    assert place.repeated() == 1
    assert worker.holds("e-1", 1, attempt=2)


def test_what_is_claimed_for_another_copy_under_a_lease_is_left_to_the_store(place: Place, worker: Worker):
    place.ask("e-1", "a worker of another kind")

    place.send("e-1")
    worker.take()

    assert worker.receipt().claim == ""


def test_the_oldest_of_what_a_dead_worker_had_taken_counts_as_begun(place: Place, worker: Worker):
    for unit in ("handled", "busy with this", "prefetched", "prefetched too"):
        place.send(unit)
    worker.take(4)
    place.store.commit(worker.claim("handled", 0), Settlement())
    worker.die()

    other = Worker(place)
    other.take(3)

    assert [other.receipt(n).claim for n in (0, 1, 2)] == ["", "", ""]
    assert place.store.begin(other.claim("busy with this", 0)) == BEGUN_AGAIN
    assert place.store.begin(other.claim("prefetched", 1)) == RUN
    assert place.store.begin(other.claim("prefetched too", 2)) == RUN


@pytest.mark.parametrize("page", [1, 2, 200])
def test_of_a_pool_as_many_count_as_begun_as_run_at_a_time(place: Place, page: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ownership, "PAGE", page)
    worker = Worker(place, at_a_time=2)
    units = ["handled", "slow", "just begun", "prefetched", "prefetched too"]
    for unit in units:
        place.send(unit)
    worker.take(5)
    place.store.commit(worker.claim("handled", 0), Settlement())
    worker.die()

    other = Worker(place)
    other.take(4)

    results = [place.store.begin(other.claim(unit, n)) for n, unit in enumerate(units[1:])]
    assert results == [BEGUN_AGAIN, BEGUN_AGAIN, RUN, RUN]


def test_of_a_pool_that_had_less_to_do_everything_counts(place: Place):
    worker = Worker(place, at_a_time=8)
    place.send("e-1")
    place.send("e-2")
    worker.take(2)
    worker.die()

    other = Worker(place)
    other.take(2)

    assert [place.store.begin(other.claim(f"e-{n + 1}", n)) for n in (0, 1)] == [BEGUN_AGAIN, BEGUN_AGAIN]


def test_what_a_living_worker_returns_as_a_failure_counts_as_begun(place: Place, worker: Worker):
    place.send("the child died")
    place.send("prefetched")
    worker.take(2)
    worker.messages[0].reject(requeue=True)
    assert worker.take(3)
    worker.channel.give_back([worker.claim("prefetched", 1).token], counted=False)
    assert worker.take(4)

    assert place.store.begin(worker.claim("the child died", 2)) == BEGUN_AGAIN
    assert place.store.begin(worker.claim("prefetched", 3)) == RUN


def test_notes_of_what_was_begun_are_kept_for_a_day(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    owner = worker.receipt().tag.rpartition(":")[0]
    worker.messages[0].reject(requeue=True)

    assert 86_000 < place.corner.redis.ttl(worker.channel.keys.begun(owner)) <= 86_400


def test_what_a_clean_stop_returns_does_not_count_although_it_is_the_oldest(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    worker.go()

    assert place.ask("e-1") == RUN


def test_what_kills_its_workers_is_parked_after_as_many_beginnings_as_allowed(place: Place):
    place.send("poison")
    place.send("innocent")
    verdicts = []
    for life in range(4):
        worker = Worker(place)
        worker.take(2)
        if worker.holds("poison"):
            verdicts.append(RUN)
        else:
            verdicts.append(place.store.begin(worker.claim("poison")))
        if life < 3:
            worker.die()

    assert [result.verdict for result in verdicts] == [Verdict.RUN] * 3 + [Verdict.POISON]
    assert place.store.begin(worker.claim("innocent", 1)) == RUN


def test_what_a_clean_stop_returns_can_be_run_at_once_and_was_no_attempt(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()

    worker.go()

    other = Worker(place)
    other.take()
    assert other.holds("e-1") or place.store.begin(other.claim("e-1")) == RUN


def test_what_was_taken_and_never_delivered_is_claimed_by_the_next_worker_as_if_new(place: Place, worker: Worker):
    place.send("e-1")
    place.send("e-2")
    worker.take(1)
    assert worker.channel.has_arrived
    worker.go()

    other = Worker(place)
    other.take(2)

    assert other.holds("e-2", 1)


def test_a_claim_is_not_certain_for_longer_than_its_owner_counts_as_alive(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    assert worker.holds("e-1")

    time.sleep(TIMEOUT)

    assert not worker.holds("e-1")
    # Asking settles it: the owner lived on.
    assert place.store.begin(worker.claim("e-1")) == RUN


def test_taking_is_a_sign_of_life(place: Place, worker: Worker):
    worker.channel.own()
    consumers, (owner,) = f"{place.corner.prefix}_choreo.consumers", place.corner.owners()
    place.corner.redis.zadd(consumers, {owner: int(time.time() * 1000) + 200})
    place.send("e-1")

    worker.take()

    assert place.corner.redis.zscore(consumers, owner) > (time.time() + TIMEOUT * 0.8) * 1000


def test_a_zombie_can_neither_begin_nor_commit_what_somebody_else_has(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    worker.die()
    other = Worker(place)
    other.take()
    place.store.begin(other.claim("e-1"))

    assert place.store.begin(worker.claim("e-1")).verdict is Verdict.BUSY
    assert place.store.commit(worker.claim("e-1"), Settlement(letter=("l-1", "{}"))).outcome is Outcome.STALE

    assert place.store.letters(HANDLER) == []
    assert place.store.commit(other.claim("e-1"), Settlement()).outcome is Outcome.OK


def test_a_zombie_that_begins_what_nobody_else_has_yet_keeps_others_out(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    worker.die()
    own = worker.channel.own()
    Worker(place).channel.own().recover(own.owner)
    assert len(place.corner.waiting(HANDLER)) == 1

    assert place.store.begin(worker.claim("e-1")).verdict is Verdict.RUN

    assert place.ask("e-1").verdict is Verdict.BUSY


def test_a_handler_that_outlives_its_worker_keeps_others_out_as_long_as_it_renews(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()
    assert place.store.renew(worker.claim("e-1"))
    worker.die()
    other = Worker(place)
    other.take()

    result = place.store.begin(other.claim("e-1"))

    assert result.verdict is Verdict.BUSY
    assert result.busy_seconds == pytest.approx(30, abs=5)
    assert place.store.commit(worker.claim("e-1"), Settlement()).outcome is Outcome.OK


def test_the_claim_itself_has_a_lifetime(place: Place, worker: Worker):
    place.send("e-1")
    worker.take()

    left = place.corner.redis.pttl(f"{place.namespace}:choreo:{{{HANDLER}}}:unit:{identity_of('e-1')}")
    assert 3_500_000 < left <= 3_600_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"headers": {"lang": "py", "task"', '"headers": {"task"'),
        lambda text: text.replace('"id": "e-1"', '"id": "e\\u002d1"'),
        lambda text: text.replace('"retries": 0', '"retries": "0"'),
        lambda text: text.replace('"retries": 0, ', ""),
        lambda text: text.replace(": ", ":"),
        lambda text: text.replace('"delivery_info": {', '"delivery_info": {"redelivered": true, '),
        lambda text: text.replace('"retries": 0', '"x-delivery-count": 1, "retries": 0'),
        lambda text: "{" + text,
        lambda text: text.replace('\\"id\\":\\"e-1', '\\"id\\":\\"e-2'),
        lambda text: text.replace('{"body": "', '{"body": "?'),
    ],
)
def test_what_is_not_as_choreo_writes_it_or_was_delivered_before_is_left_to_the_store(
    place: Place, worker: Worker, spoil: Callable[[str], str]
):
    place.send("e-1")
    text = place.corner.redis.rpop(place.corner.prefix + HANDLER).decode()
    assert spoil(text) != text
    place.corner.redis.lpush(place.corner.prefix + HANDLER, spoil(text))

    worker.take()

    assert worker.receipt().claim == ""
    assert place.unit("e-1") == {}


def test_data_that_looks_like_headers_claims_nothing(place: Place, worker: Worker):
    trap = '"headers": {"lang": "py", "task": "choreo.event", "id": "e-9", "retries": 0, '
    place.send("e-1", data={"customer_id": trap, "total_cents": 1, "\\" + trap: trap})

    worker.take()

    assert worker.holds("e-1")
    assert place.unit("e-9") == {}


def test_a_key_of_somebody_else_stops_no_queue(place: Place, worker: Worker):
    place.corner.redis.set(f"{place.namespace}:choreo:{{{HANDLER}}}:unit:{identity_of('e-1')}", "not a hash")
    place.send("e-1")
    place.send("e-2")

    worker.take(2)

    assert worker.receipt().claim == ""
    assert worker.holds("e-2", 1)


def test_a_queue_without_an_inbox_is_taken_as_ever(place: Place):
    worker = Worker(place, inbox="")
    place.send("e-1")

    worker.take()

    assert worker.receipt().claim == ""
    assert place.store.begin(worker.claim("e-1")) == RUN


class Placed(Event, type="order.placed"):
    number: int


def test_a_service_says_where_its_plain_handlers_remember_and_leaves_joins_and_other_stores_alone(redis_url: str):
    class Paid(Event, type="order.paid"):
        number: int

    def queues(store: str, **settings: Any) -> dict[str, str]:
        app = Service("payment", broker=redis_url, config={"choreo_store_url": store, **settings}, set_as_current=False)
        app.on(Placed, name="charge")(plain)
        app.join(Placed, Paid, name="both")(joined)
        with app.connection_for_read() as connection:
            told: dict[str, str] = {}
            for queue in (queue for queue in app.amqp.queues.values() if isinstance(queue, HandlerQueue)):
                consumed = queue(connection.default_channel)
                consumed.consume(consumer_tag=queue.name, callback=print)
                told[queue.handler] = (consumed.consumer_arguments or {}).get(INBOX, "")
                consumed.cancel(queue.name)
        return told

    def plain(event: Envelope) -> None: ...
    def joined(placed: Placed, paid: Paid) -> None: ...

    nowhere = {"payment.charge": "", "payment.both": "", "payment.dead_letters": ""}
    assert queues(redis_url) == nowhere | {"payment.charge": "86400000 choreo:{payment.charge}:"}
    assert queues("memory:") == nowhere
    assert queues("redis://127.0.0.1:1/5") == nowhere
    assert queues(redis_url, choreo_fast_lane=False) == nowhere


#: What Celery's documentation says to set for priorities.
PRIORITIES = {"priority_steps": list(range(10)), "sep": ":", "queue_order_strategy": "priority"}


def test_what_a_handler_announces_reaches_its_queues_with_celerys_documented_options_for_priorities(
    redis_url: str, namespace: str
):
    settings = {"choreo_namespace": namespace, "broker_transport_options": PRIORITIES}
    app = Service("payment", config=settings, broker=redis_url, set_as_current=False)

    @app.on(Placed)
    def charge(event: Placed) -> None: ...

    placed = Message.carrying(
        envelope(Placed(number=7)), exchange=app.runtime.topology.exchange.name, routing_key="order.placed"
    )
    with app.connection_for_write() as connection:
        queue = app.amqp.queues[app.runtime.topology.name_of("payment.charge")](connection.default_channel)
        queue.declare()
        claim = Claim("payment.charge", identity_of("e-1"), "A")
        app.runtime.store.begin(claim)

        committed = app.runtime.store.commit(claim, Settlement(sent={"event:1": placed}))

        assert committed.unheard == []
        assert queue.get(no_ack=True).payload[0][0]["data"] == {"number": 7}
