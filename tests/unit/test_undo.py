"""Effects that are undone once a failure demands it. Without a broker, and in made-up time."""

import json
import logging
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from choreo import Context, Envelope, Event, PermanentFailure, Reason, Retry, RetryLater, Service
from choreo.cli import choreo
from choreo.errors import DeclarationError, JoinError, RerunError
from choreo.events.alerts import DeadLetterRecorded
from choreo.store import Claim
from choreo.store.claims import Verdict
from choreo.store.parts import unit_of
from choreo.store.runs import Recording
from tests.unit.events import OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, PaymentFailed, envelope
from tests.unit.stage import Stage, service

HANDLER = "payment.refund"
DAY = 86_400.0
CHARGED = envelope(PaymentCharged(amount_cents=1200), id="c-1")
AGAIN = envelope(PaymentCharged(amount_cents=300), id="c-2")
REJECTED = envelope(OrderRejected(reason="closed"), id="r-1")


class PaymentRefunded(Event):
    amount_cents: int
    why: str = ""


class CreditBooked(Event):
    order_id: str


class CreditRefused(Event):
    order_id: str


def charging(app: Service):
    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged | PaymentFailed:
        return PaymentCharged(amount_cents=700)

    return charge


def undoing_stage(fail=(), retry: Retry | None = None, **options) -> Stage:
    app, errors = service(), list(fail)

    @app.on(OrderRejected, undoes=charging(app), retry=retry, **options)
    def refund(charged: PaymentCharged, rejected: OrderRejected | None) -> PaymentRefunded:
        if errors:
            raise errors.pop(0)
        return PaymentRefunded(amount_cents=charged.amount_cents, why=rejected.reason if rejected else "by hand")

    return Stage(app)


def refunds(stage: Stage) -> list[int]:
    return [event.data["amount_cents"] for event in stage.told_by_services if event.type == "payment.refunded"]


def hear(stage: Stage, *events: Envelope) -> None:
    for event in events:
        stage.deliver(event, HANDLER)
        stage.run()


# -- either order, once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(CHARGED, REJECTED), (REJECTED, CHARGED)], ids=["effect first", "failure first"])
def test_an_effect_is_undone_once_whichever_comes_first(order):
    stage = undoing_stage()

    hear(stage, *order, *order)
    stage.advance(days=9)

    (refunded,) = [event for event in stage.events if event.type == "payment.refunded"]
    assert (refunded.subject, refunded.data) == ("ORD-1", {"amount_cents": 1200, "why": "closed"})
    assert refunded.causation_id == "r-1"
    assert stage.dead_letters == []


def test_it_runs_behind_the_handler_whose_effect_it_undoes():
    stage = undoing_stage()

    stage.publish(OrderRejected(reason="closed"), subject="ORD-1")
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.run()

    assert refunds(stage) == [700]


@pytest.mark.parametrize(
    "order",
    [(CHARGED, AGAIN, REJECTED), (CHARGED, REJECTED, AGAIN), (REJECTED, AGAIN, CHARGED)],
    ids=["both before", "one before", "both after"],
)
def test_each_effect_is_undone_though_the_key_is_one(order):
    stage = undoing_stage()

    hear(stage, *order, *order)

    assert sorted(refunds(stage)) == [300, 1200]


def test_several_failures_undo_an_effect_once():
    stage = undoing_stage()

    hear(stage, CHARGED, REJECTED, envelope(OrderRejected(reason="again"), id="r-2"))

    assert refunds(stage) == [1200]


def test_without_a_failure_an_effect_stands_and_nothing_is_made_of_it(caplog):
    stage = undoing_stage(within=timedelta(days=2))
    hear(stage, CHARGED)
    assert stage.store.backlog(HANDLER).joins == 1

    with caplog.at_level(logging.INFO):
        stage.advance(days=3)

    assert (refunds(stage), stage.dead_letters, stage.store.backlog(HANDLER).total) == ([], [], 0)
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == []
    assert stage.store.runs(HANDLER, CHARGED.correlation_id) == []


def test_a_failure_without_an_effect_leaves_nothing_that_waits():
    stage = undoing_stage()

    hear(stage, REJECTED)

    assert stage.store.backlog(HANDLER).total == 0
    assert (list(stage.app.joins), stage.app.observe.stuck()) == ([], [])


def test_a_failure_that_comes_too_late_undoes_nothing_and_says_so(caplog):
    stage = undoing_stage(within=timedelta(hours=1))
    hear(stage, CHARGED)
    stage.advance(hours=2)

    hear(stage, REJECTED)

    assert refunds(stage) == []
    assert "order.rejected ORD-1) (id r-1) came after 1:00:00: nothing of 'ORD-1' is undone" in caplog.text


def test_a_failure_is_remembered_for_as_long_as_it_may_demand_something():
    stage = undoing_stage(within=timedelta(days=5))
    hear(stage, REJECTED)

    stage.advance(days=4)
    hear(stage, CHARGED)
    stage.advance(days=2)
    hear(stage, AGAIN)

    assert refunds(stage) == [1200]


def test_an_event_of_unless_makes_the_effect_final():
    stage = undoing_stage(unless=OrderConfirmed)

    hear(stage, CHARGED, envelope(OrderConfirmed(), id="o-1"), REJECTED, AGAIN)

    assert (refunds(stage), stage.dead_letters) == ([], [])


def test_the_key_may_be_a_field():
    app = service()
    undone = []

    @app.on(CreditRefused, undoes=CreditBooked, by="order_id")
    def unbook(booked: CreditBooked, context: Context) -> None:
        undone.append((booked.order_id, context.subject, context.envelope.type))

    stage = Stage(app)
    stage.deliver(envelope(CreditBooked(order_id="7"), subject="A", id="b-1"))
    stage.deliver(envelope(CreditBooked(order_id="8"), subject="A", id="b-2"))
    stage.deliver(envelope(CreditRefused(order_id="7"), subject="B", id="f-1"))
    stage.run()

    assert undone == [("7", "A", "credit.refused")]


# -- failures of the undo ------------------------------------------------------------------------------------------


def test_the_undo_is_retried_with_both_events_and_one_idempotency_key():
    app, seen = service(), []

    @app.on(OrderRejected, undoes=charging(app), retry=Retry(times=2))
    def refund(charged: PaymentCharged, rejected: OrderRejected, context: Context) -> None:
        seen.append((charged.amount_cents, rejected.reason, context.idempotency_key, context.attempt))
        if context.attempt == 1:
            raise RetryLater(5)

    stage = Stage(app)
    hear(stage, CHARGED, REJECTED)
    stage.advance(seconds=10)

    key = f"payment.refund/{CHARGED.identity}"
    assert seen == [(1200, "closed", key, 1), (1200, "closed", key, 2)]


def test_an_undo_that_fails_is_a_dead_letter_that_tells_what_stands(caplog):
    stage = undoing_stage(fail=[PermanentFailure("the bank is closed")])

    hear(stage, CHARGED, REJECTED)

    (letter,) = stage.dead_letters
    assert (letter.handler, letter.reason, letter.undoes) == (HANDLER, Reason.REFUSED, "payment.charged")
    (alert,) = [event for event in stage.events if event.type == DeadLetterRecorded.event_type]
    assert alert.data["undoes"] == "payment.charged"
    assert "payment.refund could not undo the effect of payment.charged ORD-1" in caplog.text


@pytest.mark.parametrize("days", [0, 30], ids=["soon", "when all is forgotten"])
def test_its_replay_undoes_the_effect(days):
    stage = undoing_stage(fail=[PermanentFailure("the bank is closed")])
    hear(stage, CHARGED, REJECTED)
    stage.advance(days=days)

    (letter,) = stage.dead_letters
    stage.app.dead_letters.replay(letter.id)
    stage.run()

    assert (refunds(stage), stage.dead_letters) == ([1200], [])


def test_an_effect_that_comes_while_its_failure_is_settled_comes_again():
    stage = undoing_stage()
    hear(stage, CHARGED)
    delivery = stage.app.tasks[HANDLER].make_delivery(REJECTED, 1)
    assert delivery.begin().verdict is Verdict.RUN

    hear(stage, AGAIN)
    assert refunds(stage) == []
    stage.wait(60)
    hear(stage, REJECTED)
    stage.advance(seconds=60)

    assert sorted(refunds(stage)) == [300, 1200]


def test_a_worker_that_dies_with_the_failure_leaves_it_to_the_next_event():
    stage = undoing_stage()
    hear(stage, CHARGED)
    stage.app.tasks[HANDLER].make_delivery(REJECTED, 1).begin()
    stage.wait(60)

    hear(stage, CHARGED)

    assert refunds(stage) == [1200]


# -- by hand -------------------------------------------------------------------------------------------------------


def test_an_effect_is_undone_by_hand_without_a_failure():
    stage = undoing_stage()
    hear(stage, CHARGED, AGAIN)

    stage.app.joins.fire("ORD-1", HANDLER)
    stage.run()
    hear(stage, REJECTED)

    assert sorted(refunds(stage)) == [300, 1200]


def test_a_handler_that_needs_the_failure_cannot_be_fired():
    app = service()

    @app.on(OrderRejected, undoes=charging(app))
    def refund(charged: PaymentCharged, rejected: OrderRejected) -> None: ...

    stage = Stage(app)
    hear(stage, CHARGED)

    with pytest.raises(JoinError, match=r"its handler does not accept None for order\.rejected"):
        app.joins.fire("ORD-1", HANDLER)


def test_a_pending_effect_is_no_pending_join_but_is_found_by_its_handler():
    stage = undoing_stage()
    hear(stage, CHARGED)

    assert list(stage.app.joins) == stage.app.joins.find("ORD-1") == []
    join = stage.app.joins.get("ORD-1", HANDLER)
    assert (join.is_effect, [str(part) for part in join.missing]) == (True, ["order.rejected"])

    stage.app.joins.cancel("ORD-1", "it is eaten", HANDLER)
    hear(stage, REJECTED)
    assert refunds(stage) == []


def test_an_undo_runs_again():
    stage = undoing_stage()
    stage.store._recording = Recording(events=True)
    hear(stage, CHARGED, REJECTED)

    stage.app.rerun(HANDLER, "ORD-1", new_key=True)
    stage.run()

    assert refunds(stage) == [1200, 1200]
    with pytest.raises(RerunError, match=r"knows no run of payment\.refund that undid something about 'ORD-2'"):
        stage.app.rerun(HANDLER, "ORD-2")


# -- what is declared ----------------------------------------------------------------------------------------------


def test_what_is_undone_is_in_the_description():
    stage = undoing_stage()
    (charge, refund) = stage.app.describe().handlers

    assert (refund.kind, charge.kind) == ("undo", "on")
    undoing = refund.undoes
    assert undoing is not None
    assert (undoing.handler, undoing.effects, undoing.failures) == (
        "payment.charge",
        ("payment.charged",),
        ("order.rejected",),
    )
    assert refund.to_dict()["undoes"]["effects"] == ["payment.charged"]
    assert type(refund).from_dict(json.loads(json.dumps(refund.to_dict()))) == refund
    assert refund.reads == {"order.rejected": ("reason",), "payment.charged": ("amount_cents",)}
    assert charge.undoes is None


def test_that_no_undo_is_needed_is_in_the_description():
    app = service()

    @app.on(OrderPlaced, no_undo="a text message cannot be called back")
    def text(order: OrderPlaced) -> None: ...

    @app.join(OrderConfirmed, PaymentCharged, no_undo="it is only watched")
    def watch(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    described = {one.name: one.no_undo for one in app.describe().handlers}
    assert described == {"payment.text": "a text message cannot be called back", "payment.watch": "it is only watched"}


def refused(app: Service, function, *failures, **options) -> str:
    with pytest.raises(DeclarationError) as error:
        app.on(*(failures or (OrderRejected,)), **options)(function)
    return str(error.value)


def test_a_view_does_not_say_which_of_several_events_is_the_effect():
    app = service()
    charge = charging(app)

    def refund(charged: Envelope) -> None: ...

    assert "announces PaymentCharged, PaymentFailed. Its first parameter says which" in refused(
        app, refund, undoes=charge
    )


def test_wrong_declarations_are_refused_with_the_way_out():
    app = service()
    charge = charging(app)

    def refund(charged: PaymentCharged) -> None: ...

    def other(order: OrderPlaced) -> None: ...

    def stranger(order: OrderPlaced) -> PaymentCharged: ...

    def silent(order: OrderPlaced): ...

    app.on(OrderPlaced)(silent)
    assert "no handler of this service that is declared above" in refused(app, refund, undoes=stranger)
    assert "whose return annotation names no event" in refused(app, refund, undoes=silent)
    assert "neither a handler nor an event" in refused(app, refund, undoes="charge")
    assert "must take the event of the effect" in refused(app, other, undoes=PaymentCharged)
    assert "no pattern" in refused(app, refund, "order.*", undoes=charge)
    assert "cannot be the effect and its failure" in refused(app, refund, PaymentCharged, undoes=PaymentCharged)
    assert "Add undoes=" in refused(app, other, OrderPlaced, within=timedelta(days=1))
    assert "says why, in a text" in refused(app, other, OrderPlaced, no_undo=True)
    assert "not a time to wait" in refused(app, refund, undoes=charge, within=5)


# -- what people see -----------------------------------------------------------------------------------------------


def effects(stage: Stage, what: str = "ORD-1"):
    assert stage.app.observe.effects(what) == stage.effects(what)
    return stage.effects(what)


def test_the_effects_of_an_order_are_told():
    stage = undoing_stage()
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.run()

    (stands,) = effects(stage).effects
    assert (stands.state, stands.type, stands.made_by) == ("stands", "payment.charged", "payment.charge")
    assert (stands.failures, stands.demanded_by) == (("order.rejected",), "")
    assert stands.until is not None

    stage.publish(REJECTED)
    stage.run()
    (undone,) = effects(stage).effects
    assert (undone.state, undone.demanded_by, undone.undone_by) == ("undone", "order.rejected", HANDLER)
    assert [kind for kind, _ in undone.announced] == ["payment.refunded"]
    assert not effects(stage).is_any_failed


def test_an_undo_that_failed_comes_with_its_dead_letter_and_the_next_step():
    stage = undoing_stage(fail=[PermanentFailure("the bank is closed")])
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.publish(REJECTED)
    stage.run()

    (effect,), (letter,) = effects(stage).effects, stage.dead_letters
    assert (effect.state, effect.letter, effect.demanded_by) == ("not undone", letter.id, "order.rejected")
    assert f"choreo dead-letters replay {letter.id}" in effect.do
    assert effects(stage).is_any_failed


def test_an_undo_that_waits_for_its_next_attempt_is_on_its_way():
    stage = undoing_stage(fail=[RetryLater(60)], retry=Retry(times=3))
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.publish(REJECTED)
    stage.run()

    (effect,) = effects(stage).effects
    assert effect.state == "being undone"
    assert "attempt 2 of 4 of payment.refund is due in" in effect.why


@pytest.mark.parametrize("is_before", [False, True], ids=["after it", "before it"])
def test_an_effect_that_was_made_final_is_told(is_before):
    app = service()
    charging(app)

    @app.on(OrderRejected, undoes=PaymentCharged, unless=OrderConfirmed, name="refund")
    def refund(charged: PaymentCharged) -> PaymentRefunded: ...

    @app.on(OrderPlaced if is_before else PaymentCharged)
    def confirm(event: Envelope) -> OrderConfirmed:
        return OrderConfirmed()

    stage = Stage(app)
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.run()

    (effect,) = effects(stage).effects
    assert (effect.state, effect.demanded_by) == ("final", "order.confirmed")


def test_why_there_was_no_refund_says_that_nothing_demands_it():
    stage = undoing_stage()
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.run()

    answer = stage.app.observe.why_not("payment.refunded", "ORD-1")
    assert answer.cause.name == "not demanded"
    assert "order.rejected was not announced, and may never be" in answer.cause.text
    assert stage.app.observe.stuck() == []


def test_a_trace_of_an_order_whose_effect_stands_is_done():
    stage = undoing_stage()
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.run()

    (trace,) = stage.app.observe.trace("ORD-1")
    assert trace.is_done, trace.headline()


def test_the_map_shows_what_undoes_an_effect():
    from choreo.observe.picture import Picture

    shown = undoing_stage().map
    hearers = {(event.type, hearer.how) for event in shown.events for hearer in event.heard_by}
    assert {("payment.charged", "effect"), ("order.rejected", "undo")} <= hearers
    assert "e_payment_charged -. undone by .-> h_payment_refund" in Picture(shown).mermaid()


def test_the_key_of_an_undo_ends_with_its_failure():
    stage = undoing_stage()
    hear(stage, CHARGED, REJECTED)

    claim = Claim(HANDLER, unit_of("ORD-1"), "t", attempt=0)
    assert stage.store.begin(claim).verdict is Verdict.DONE


def test_the_command_tells_it_in_80_columns(monkeypatch):
    stage = undoing_stage(fail=[PermanentFailure("the bank is closed")])
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.run()
    stands = command("ORD-1")
    assert (stands.exit_code, stands.output.splitlines()[0][:29]) == (0, "STANDS        payment.charged")
    assert "order.rejected, which may never come" in " ".join(stands.output.split())

    stage.publish(REJECTED)
    stage.run()
    failed = command("ORD-1")
    assert failed.exit_code == 1
    assert failed.output.startswith("NOT UNDONE    payment.charged at ")
    assert f"choreo dead-letters replay {stage.dead_letters[0].id}\n" in failed.output
    assert max(map(len, stands.output.splitlines() + failed.output.splitlines())) <= 80

    shown = CliRunner().invoke(choreo, ["dead-letters", "show", stage.dead_letters[0].id]).output
    assert "not undone:  the effect of payment.charged stands until this is replayed" in shown
    assert "to be undone because of order.rejected ORD-1  (id r-1, from order)" in shown

    read = json.loads(command("ORD-1", "--json").output)
    assert read["effects"][0]["letter"] == stage.dead_letters[0].id
    assert "No effect that a handler undoes is known about ORD-2" in command("ORD-2").output


def command(*arguments: str) -> Result:
    return CliRunner().invoke(choreo, ["effects", *arguments])
