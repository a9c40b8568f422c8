"""All that is known of an order is found in every store: its runs, and what is still to be done."""

import json
from typing import Any

import pytest

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.observe.broker_look import BrokerLook
from choreo.observe.evidence import Evidence
from choreo.observe.gathering import Gathering
from choreo.observe.map import drawn
from choreo.observe.open_end import Kind
from choreo.store import Arrival, Scheduled, Settlement
from choreo.store.parts import packed
from choreo.store.runs import Result, Run, entries
from tests.contract.rigs import claim, settle

PAYMENT, DRIVER = "payment.charge", "driver.assign"


def event(event_id: str = "e-1", kind: str = "order.placed", subject: str = "ORD-1", story: str = "e-1") -> Envelope:
    wire = {
        "specversion": "1.0",
        "id": event_id,
        "type": kind,
        "source": "shop",
        "subject": subject,
        "correlationid": story,
    }
    return Envelope.from_wire(wire | {"time": "2026-01-01T00:00:00+00:00"})


def carrying(envelope: Envelope, **options: Any) -> Message:
    return Message.carrying(envelope, exchange="", routing_key=PAYMENT, **options)


def about(store: Any, what: str) -> Evidence:
    look = BrokerLook(is_open=True)
    return Gathering(store, lambda name: name, lambda *_: look, lambda: drawn([])).about(what)


@pytest.fixture
def full(store: Any) -> Any:
    """A store with one story: a run, a retry, a dead letter, a delayed event and a join that waits."""
    store.register([PAYMENT, DRIVER])
    store.describe_joins({DRIVER: json.dumps({"parts": ["a.b", "order.placed"], "at_least": 2, "several": {}})})
    run = Run("e-1", "e-1", "ORD-1", "order.placed", 1, Result.RETRY, handler=PAYMENT, detail="ValueError: no")
    store.begin(claim(unit="event:shop#e-1", handler=PAYMENT))
    retry = Scheduled("retry:1", carrying(event(), retries=1), 60)
    settle(
        store,
        claim(unit="event:shop#e-1", handler=PAYMENT),
        Settlement(done=False, scheduled=[retry], record=entries(run)),
    )
    letter = DeadLetter(
        "payment",
        PAYMENT,
        Reason.REFUSED,
        "ValueError: no",
        carrying(event("e-2")),
        envelopes=(event("e-2"),),
        id="0123456789",
    )
    store.add_letter(PAYMENT, letter.id, letter.to_json())
    part = event("e-3")
    needs = {"a.b": None, "order.placed": None}
    arrival = Arrival("order.placed", "order.placed", packed(part), needs, at_least=2, within=100.0)
    store.arrive(claim(unit="join:ORD-1", handler=DRIVER), arrival)
    store.schedule(
        "delayed", Scheduled("event:e-4", Message.carrying(event("e-4"), exchange="x", routing_key="order.placed"), 60)
    )
    return store


@pytest.mark.parametrize(
    ("what", "read_as"), [("ORD-1", "subject"), ("e-1", "story"), ("e-3", "event"), ("0123456789", "dead letter")]
)
def test_everything_about_an_order_is_found_by_its_names(full: Any, what: str, read_as: str) -> None:
    evidence = about(full, what)

    assert evidence.read_as == read_as
    assert list(evidence.stories) == ["e-1"]
    assert [(run.handler, run.result) for run in evidence.runs] == [(PAYMENT, Result.RETRY)]
    found = {(end.kind, end.handler, end.event.id) for end in evidence.ends}
    assert found == {
        (Kind.RETRY, PAYMENT, "e-1"),
        (Kind.LETTER, PAYMENT, "e-2"),
        (Kind.JOIN, DRIVER, "e-3"),
        (Kind.LATER, "delayed", "e-4"),
    }
    assert evidence.notes == []


def test_nothing_is_found_of_another_order(full: Any) -> None:
    evidence = about(full, "ORD-10")

    assert (evidence.read_as, list(evidence.stories), list(evidence.ends)) == ("", [], [])


def test_what_was_not_looked_at_is_told(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = full.find_letters
    monkeypatch.setattr(full, "find_letters", lambda *given: (kept(*given)[0], False))

    assert f"not all dead letters of {PAYMENT} were looked through" in about(full, "ORD-1").notes


def test_a_worker_of_an_older_choreo_counts_as_one(store: Any) -> None:
    store.register([PAYMENT])
    store.declare("payment", "w-1", [(PAYMENT, "order.placed")], 60)

    (worker,) = about(store, "ORD-1").consumers(PAYMENT)

    assert worker.queues == (PAYMENT,)
    assert about(store, "ORD-1").consumers("payment.refund") == []


def test_an_event_that_goes_to_the_record_meanwhile_is_found(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    kept = full.stories

    def stories(handler: str, subject: str) -> list[str]:
        looks.append(1)
        # Each of the two handlers is asked once before the look at the queues, and once after it.
        return [] if len(looks) <= 2 else kept(handler, subject)

    monkeypatch.setattr(full, "stories", stories)

    assert list(about(full, "ORD-1").stories) == ["e-1"]
    assert {end.kind for end in about(full, "ORD-1").ends} == {Kind.RETRY, Kind.LETTER, Kind.JOIN, Kind.LATER}
