"""`app.rerun` and `choreo rerun`: a handler handles an event again."""

from datetime import timedelta

import pytest
from click.testing import CliRunner

from choreo import (
    Context,
    DeadLetter,
    Envelope,
    Event,
    PermanentFailure,
    Reason,
    RerunError,
    RetryLater,
    Service,
)
from choreo.cli import choreo
from choreo.store.runs import Recording
from tests.unit.events import (
    NOON,
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
    envelope,
)
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)
CHARGE, ASSIGN, NOTIFY = "payment.charge", "payment.assign", "payment.notify"
DATA = {"customer_id": "alice", "total_cents": 500}
ID = "0a1b2c3d-0000-4000-8000-000000000001"


class Shop:
    """A service that forgets to announce something the first time."""

    def __init__(self) -> None:
        self.app = service("payment")
        self.announces: list[Event | Exception] = []
        self.keys: list[str] = []
        self.amounts: list[int] = []
        self.notified: list[str] = []
        self._declare()
        self.stage = Stage(self.app, start=NOON)

    def _declare(self) -> None:
        @self.app.on(OrderPlaced)
        def charge(order: OrderPlaced, context: Context) -> PaymentCharged | PaymentFailed | None:
            self.keys.append(context.idempotency_key)
            self.amounts.append(order.total_cents)
            said = self.announces.pop(0) if self.announces else None
            if isinstance(said, Exception):
                raise said
            return said

        @self.app.on(PaymentCharged, PaymentFailed)
        def notify(event: Envelope) -> None:
            self.notified.append(event.type)

        @self.app.join(OrderConfirmed, PaymentFailed, unless=OrderRejected, within=timedelta(hours=1))
        def assign(confirmed: OrderConfirmed, failed: PaymentFailed, context: Context) -> DriverAssigned:
            self.keys.append(context.idempotency_key)
            return DriverAssigned()

    def order(self, subject: str = "ORD-1", event_id: str = ID) -> None:
        self.stage.deliver(ORDER, CHARGE, subject=subject, id=event_id, correlation_id=event_id)
        self.stage.run()


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def app(shop: Shop) -> Service:
    return shop.app


def keep_events(shop: Shop) -> None:
    shop.stage.store._recording = Recording(events=True)


# -- a handler ------------------------------------------------------------------------------------------------------


def test_what_was_missing_is_added_in_the_same_story(shop: Shop, app: Service):
    shop.order()
    assert shop.stage.types == []
    shop.announces = [PaymentCharged()]

    plan = app.rerun(CHARGE, "ORD-1", data=DATA)
    shop.stage.run()

    (charged,) = shop.stage.events
    assert (charged.type, charged.correlation_id, charged.causation_id) == ("payment.charged", ID, ID)
    assert (shop.notified, shop.amounts) == (["payment.charged"], [500, 500])
    assert len(set(shop.keys)) == 1, "a provider recognises the call"
    assert plan.found_in == "the command line"
    (repair,) = app.repairs.recent()
    assert (repair.action, repair.target) == ("rerun", "payment.charge ORD-1")


def test_the_same_events_are_ignored_by_those_who_have_handled_them(shop: Shop, app: Service):
    shop.announces = [PaymentCharged(), PaymentCharged()]
    shop.order()

    app.rerun(CHARGE, "ORD-1", data=DATA)
    shop.stage.run()

    first, second = [event for event in shop.stage.events if event.type == "payment.charged"]
    assert first.id == second.id
    assert shop.notified == ["payment.charged"]


def test_with_a_new_key_everything_happens_again(shop: Shop, app: Service):
    shop.announces = [PaymentCharged(), RetryLater(5), PaymentCharged()]
    shop.order()

    app.rerun(CHARGE, "ORD-1", data=DATA, new_key=True)
    shop.stage.advance(seconds=10)

    assert shop.notified == ["payment.charged", "payment.charged"]
    assert len({event.id for event in shop.stage.events}) == 2
    first, second, retried = shop.keys
    assert second == retried, "the retry has the same key as the attempt before"
    assert second.startswith(f"{first}/")
    assert all("choreonewkey" not in event.extensions for event in shop.stage.events)


def test_a_dead_letter_of_a_run_with_a_new_key_keeps_it(shop: Shop, app: Service):
    shop.announces = [PaymentCharged(), PermanentFailure("no"), PaymentCharged()]
    shop.order()
    app.rerun(CHARGE, "ORD-1", data=DATA, new_key=True)
    shop.stage.run()
    (letter,) = shop.stage.dead_letters

    app.dead_letters.replay(letter.id)
    shop.stage.run()

    assert shop.keys[1] == shop.keys[2] != shop.keys[0]
    assert shop.notified == ["payment.charged", "payment.charged"]


def test_it_can_be_run_again_and_again(shop: Shop, app: Service):
    shop.order()
    for _ in range(3):
        app.rerun(CHARGE, ID, data=DATA)
        shop.stage.run()

    assert len(shop.keys) == 4


def test_without_its_data_it_is_refused_with_the_ways_out(shop: Shop, app: Service):
    shop.order()

    with pytest.raises(RerunError, match=r"kept nowhere any more\. Give its fields: --data .* choreo_record_events"):
        app.rerun(CHARGE, "ORD-1")


def test_the_data_is_kept_if_the_setting_says_so(shop: Shop, app: Service):
    keep_events(shop)
    shop.order()

    plan = app.reruns.plan(CHARGE, "ORD-1")
    app.reruns.run(plan)
    shop.stage.run()

    assert (plan.found_in, plan.event.data) == ("the record", DATA)
    assert shop.amounts == [500, 500]


def test_the_data_is_taken_from_a_dead_letter_of_another_handler(shop: Shop, app: Service):
    shop.announces = [PaymentCharged()]
    shop.order()
    charged = shop.stage.events[0]
    letter = DeadLetter(
        "payment",
        CHARGE,
        Reason.REFUSED,
        "no",
        message=app.publisher.message_for(charged),
        envelopes=(charged,),
        unit="another",
    )
    shop.stage.store.add_letter(CHARGE, letter.id, letter.to_json())

    plan = app.reruns.plan(NOTIFY, charged.id)

    assert (plan.event, plan.found_in) == (charged, f"dead letter {letter.id}")


def test_data_is_never_taken_from_a_story_which_keeps_none(shop: Shop, app: Service):
    app.story("delivery", begins=OrderPlaced, ends=[PaymentCharged], within=timedelta(minutes=10))
    keep_events(shop)
    app.runtime.introduce()
    shop.stage.store._recording = Recording()
    shop.stage.deliver(ORDER, "payment.delivery", subject="ORD-1", id=ID, correlation_id=ID)
    shop.order()
    assert shop.stage.store.look("payment.delivery", "join:ORD-1") is not None, "the story is open"

    with pytest.raises(RerunError, match=r"kept nowhere any more\. Give its fields: --data"):
        app.rerun(CHARGE, "ORD-1")

    keep_events(shop)
    shop.stage.advance(minutes=11)  # the story is overdue, and records the events that it had
    with pytest.raises(RerunError, match=r"kept nowhere any more\. Give its fields: --data"):
        app.rerun(CHARGE, "ORD-1")


def test_an_event_that_could_not_be_read_names_the_way_to_other_fields(shop: Shop, app: Service):
    shop.stage.deliver(Envelope(ID, "order.placed", "shop", "ORD-1", NOON, ID, data={"total_cents": "many"}), CHARGE)
    (letter,) = shop.stage.dead_letters
    assert letter.reason is Reason.UNREADABLE

    way = rf"which could not read it.* dead-letters discard {letter.id}`, and then `choreo rerun` .*--data"
    with pytest.raises(RerunError, match=way):
        app.rerun(CHARGE, "ORD-1", data=DATA)
    (trace,) = app.observe.trace("ORD-1")
    show, why, replay, _, discard, again = trace.cause.do
    assert (show, replay) == tuple(f"choreo dead-letters {what} {letter.id}" for what in ("show", "replay"))
    assert why == "# deploy a version of payment that can read it, then:"
    assert (discard, again) == (
        f"choreo dead-letters discard {letter.id}",
        f"choreo rerun {CHARGE} {ID} --data '{{}}'",
    )

    app.dead_letters.discard(letter.id)
    app.rerun(CHARGE, ID, data=DATA)
    shop.stage.run()

    assert shop.amounts == [500]


def test_it_warns_of_the_joins_that_it_does_not_reach(shop: Shop, app: Service, monkeypatch: pytest.MonkeyPatch):
    keep_events(shop)
    app.runtime.introduce()

    @app.on(OrderConfirmed, name="reject")
    def reject(confirmed: OrderConfirmed) -> OrderRejected:
        return OrderRejected()

    app.runtime.introduce()
    shop.stage.deliver(envelope(OrderConfirmed(), id="c-1"), ASSIGN)
    shop.stage.deliver(envelope(OrderConfirmed(), id="c-1"), "payment.reject")
    shop.stage.run()
    rejected = next(event for event in shop.stage.events if event.type == "order.rejected")
    assert app.joins.find("ORD-1") == []

    plan = app.reruns.plan("payment.reject", "ORD-1")

    assert [(run.handler, run.event) for run in plan.ended] == [(ASSIGN, rejected.id)]
    assert (
        f"The join {ASSIGN} stays cancelled, and ignores the events of this run. Let it run again afterwards: "
        f"`choreo rerun {ASSIGN} {rejected.id}`." in plan.text()
    )
    said = run(shop.stage, monkeypatch, "payment.reject", "ORD-1", "--yes")
    assert f"The join {ASSIGN} stays cancelled" in said
    shop.stage.run()
    app.rerun(ASSIGN, rejected.id)
    shop.stage.run()
    assert app.reruns.plan("payment.reject", "ORD-1").ended == (), "it waits again"


def test_given_data_takes_the_place_of_what_is_kept_also_without_a_recorded_run(shop: Shop, app: Service):
    failed = envelope(PaymentFailed(), id="f-1")
    letter = DeadLetter(
        "payment", CHARGE, Reason.REFUSED, "no", message=app.publisher.message_for(failed), envelopes=(failed,)
    )
    shop.stage.store.register([NOTIFY])
    shop.stage.store.add_letter(CHARGE, letter.id, letter.to_json())

    plan = app.reruns.plan(NOTIFY, "f-1", {"reason": "no card"})

    assert plan.run is None
    assert (plan.event.data, plan.found_in) == ({"reason": "no card"}, "the command line")


def test_several_events_of_a_subject_are_named(shop: Shop, app: Service):
    other = "0a1b2c3d-0000-4000-8000-000000000002"
    shop.order()
    shop.order(event_id=other)

    with pytest.raises(RerunError, match=rf"has handled 2 events about 'ORD-1'\. Name one .*{ID}.*{other}"):
        app.rerun(CHARGE, "ORD-1", data=DATA)
    assert app.reruns.plan(CHARGE, other, DATA).event.id == other


def test_what_is_not_finished_is_refused(shop: Shop, app: Service):
    shop.announces = [RetryLater(100), PermanentFailure("no")]
    shop.order()
    with pytest.raises(RerunError, match="has not finished with it"):
        app.rerun(CHARGE, ID)

    shop.stage.advance(seconds=200)
    (letter,) = shop.stage.dead_letters
    with pytest.raises(
        RerunError, match=rf"It is dead letter {letter.id} of payment.charge: `choreo dead-letters replay"
    ):
        app.rerun(CHARGE, "ORD-1")


@pytest.mark.parametrize(
    ("handler", "what", "words"),
    [
        ("payment.nobody", "ORD-1", "No handler is named 'payment.nobody'"),
        ("payment", "ORD-1", "No handler is named 'payment'"),
        (CHARGE, "ORD-9", "The record knows no run of payment.charge for 'ORD-9', and no event with this id is kept"),
        (ASSIGN, "ORD-9", "A join that waits needs no other run"),
    ],
)
def test_what_is_not_known_is_refused(shop: Shop, app: Service, handler: str, what: str, words: str):
    app.runtime.introduce()

    with pytest.raises(RerunError, match=words):
        app.rerun(handler, what)


# -- a join ---------------------------------------------------------------------------------------------------------


def test_a_join_runs_again_with_its_parts(shop: Shop, app: Service):
    keep_events(shop)
    app.runtime.introduce()
    shop.stage.deliver(envelope(OrderConfirmed(restaurant_id="R-7"), id="c-1"), ASSIGN)
    shop.stage.deliver(envelope(PaymentFailed(), id="f-1"), ASSIGN)
    assert len(shop.keys) == 1

    plan = app.rerun(ASSIGN, "ORD-1")
    shop.stage.run()

    assert sorted(event.id for event in plan.events) == ["c-1", "f-1"]
    assert len(shop.keys) == 2
    assert shop.keys[0] == shop.keys[1]
    assert app.joins.find("ORD-1") == []

    app.rerun(ASSIGN, "c-1", new_key=True)
    shop.stage.run()
    assert shop.keys[2] != shop.keys[0]
    assert len({event.id for event in shop.stage.events if event.type == "driver.assigned"}) == 2


def test_a_join_that_waits_and_one_whose_parts_are_lost_are_refused(shop: Shop, app: Service):
    app.runtime.introduce()
    shop.stage.deliver(envelope(OrderConfirmed(), id="c-1"), ASSIGN)
    with pytest.raises(RerunError, match="A join that waits needs no other run"):
        app.rerun(ASSIGN, "ORD-1")

    shop.stage.deliver(envelope(PaymentFailed(), id="f-1"), ASSIGN)
    with pytest.raises(RerunError, match=r"The data of these parts of payment.assign is kept nowhere any more: order"):
        app.rerun(ASSIGN, "ORD-1")


def test_data_for_a_join_is_refused(app: Service):
    app.runtime.introduce()

    with pytest.raises(RerunError, match=r"payment\.assign is a join, and has several events"):
        app.rerun(ASSIGN, "ORD-1", data=DATA)


def test_a_cancelled_join_has_its_known_parts_again_and_waits_for_the_others(shop: Shop, app: Service):
    keep_events(shop)
    app.runtime.introduce()
    shop.stage.deliver(envelope(OrderConfirmed(), id="c-1"), ASSIGN)
    shop.stage.deliver(envelope(OrderRejected(), id="r-1"), ASSIGN)
    assert app.joins.find("ORD-1") == []
    shop.stage.deliver(envelope(PaymentFailed(), id="f-1"), ASSIGN)
    assert len(shop.keys) == 0

    plan = app.rerun(ASSIGN, "ORD-1")
    shop.stage.run()

    assert (plan.missing, [event.id for event in plan.events]) == (("payment.failed",), ["c-1"])
    assert "It waits again for payment.failed." in plan.text()
    (join,) = app.joins.find("ORD-1")
    assert [part.type for part in join.missing] == ["payment.failed"]
    shop.stage.deliver(envelope(PaymentFailed(), id="f-2"), ASSIGN)
    assert (len(shop.keys), shop.stage.types.count("driver.assigned")) == (1, 1)


def test_a_cancelled_join_runs_if_another_handler_has_kept_what_came_too_late(shop: Shop, app: Service):
    keep_events(shop)
    app.runtime.introduce()
    shop.stage.deliver(envelope(OrderConfirmed(), id="c-1"), ASSIGN)
    shop.stage.deliver(envelope(OrderRejected(), id="r-1"), ASSIGN)
    for handler in (ASSIGN, NOTIFY):
        shop.stage.deliver(envelope(PaymentFailed(), id="f-1"), handler)

    plan = app.rerun(ASSIGN, "ORD-1")
    shop.stage.run()

    assert (plan.missing, len(shop.keys)) == ((), 1)
    assert app.joins.find("ORD-1") == []


def test_a_cancelled_join_of_which_nothing_is_kept_is_refused_with_the_way_out(shop: Shop, app: Service):
    app.runtime.introduce()
    shop.stage.deliver(envelope(OrderConfirmed(), id="c-1"), ASSIGN)
    shop.stage.deliver(envelope(OrderRejected(), id="r-1"), ASSIGN)

    with pytest.raises(RerunError, match=r"\(cancelled\), and the data of none .* --subject ORD-1 --caused-by r-1"):
        app.rerun(ASSIGN, "ORD-1")


# -- the command ----------------------------------------------------------------------------------------------------


def run(stage: Stage, monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0, **options) -> str:
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(choreo, ["rerun", *arguments], **options)
    assert result.exit_code == code, result.output
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []
    return " ".join(result.output.split())


def test_the_command_says_what_it_means_and_asks(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    keep_events(shop)
    shop.order()

    said = run(shop.stage, monkeypatch, CHARGE, "ORD-1", input="n\n")
    assert "payment.charge handles order.placed ORD-1 again, in the same story (data from the record)." in said
    assert "It was handled at 01-01 12:00:00 UTC (done), and announced nothing." in said
    assert f"idempotency key, which stays payment.charge/{ID}" in said
    assert len(shop.keys) == 1

    said = run(shop.stage, monkeypatch, CHARGE, "ORD-1", "--new-key", input="n\n")
    assert "a payment provider charges again" in said

    said = run(shop.stage, monkeypatch, CHARGE, "ORD-1", "--yes", "--reason", "deployed the fix")
    assert f"runs again for ORD-1. To see it: DO choreo trace {ID}" in said
    shop.stage.run()
    assert len(shop.keys) == 2
    assert [repair.reason for repair in shop.app.repairs.recent()] == ["deployed the fix"]


def test_bad_data_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    assert "not JSON" in run(shop.stage, monkeypatch, CHARGE, "ORD-1", "--data", "{", code=2)
    assert "[1] is no JSON object" in run(shop.stage, monkeypatch, CHARGE, "ORD-1", "--data", "[1]", code=2)
    assert "it is empty" in run(shop.stage, monkeypatch, CHARGE, "", code=2)
    assert "No handler is named" in run(shop.stage, monkeypatch, "payment.x", "ORD-1", code=1)
