"""A join whose declaration changes while it is pending: it ends all the same, and `joins show` tells the truth."""

from datetime import timedelta

import pytest
from click.testing import CliRunner

from choreo import Envelope, Event, PermanentFailure, Reason, Retry, RetryLater, Service, Several
from choreo.cli.joins import joins
from choreo.errors import DeadLetterError, JoinError
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

WITHIN = timedelta(minutes=30)
TIME_IS_UP = WITHIN.total_seconds() + 1
HANDLER = "shop.ship"


class ItemPacked(Event):
    order: str = ""
    parcel: str = ""


class BasketFilled(Event):
    items: list[str] = []
    boxes: int = 0


class OrderShipped(Event):
    with_what: list[str] = []


def item(name: str, **data) -> Envelope:
    return envelope(ItemPacked(**data), id=f"i-{name}")


PLACED = envelope(OrderPlaced(customer_id="alice"), id="o-1")
CONFIRMED = envelope(OrderConfirmed(), id="c-1")
CHARGED = envelope(PaymentCharged(), id="p-1")
ASSIGNED = envelope(DriverAssigned(), id="d-1")


def shown(value: object) -> list[str]:
    """The ids of the events in one argument of a handler."""
    if value is None:
        return []
    return [one.meta.id for one in value] if isinstance(value, list) else [value.meta.id]


class Shop:
    """A service that is deployed again and again, each time with another declaration of its join."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.late: list[list[str]] = []
        self.fail: list[Exception] = []
        self.stage: Stage = None  # type: ignore[assignment]

    def deploy(self, *parts, timeout: bool = True, **options) -> Stage:
        app = service("shop")
        events = [part.event if isinstance(part, Several) else part for part in parts]
        kinds = [list[part.event] if isinstance(part, Several) else part for part in parts]

        def ship(a=None, b=None, c=None):
            self.runs.append([name for given in (a, b, c) for name in shown(given)])
            if self.fail:
                raise self.fail.pop(0)
            return OrderShipped()

        def give_up(a=None, b=None, c=None):
            self.late.append([name for given in (a, b, c) for name in shown(given)])

        for function, missing in ((ship, "at_least" in options), (give_up, True)):
            code = ", ".join(f"p{n}" for n in range(len(events)))
            scope: dict = {"function": function}
            exec(f"def {function.__name__}({code}): return function({code})", scope)
            made = scope[function.__name__]
            made.__annotations__ = {
                f"p{n}": kind if not missing or isinstance(parts[n], Several) else kind | None
                for n, kind in enumerate(kinds)
            }
            if function is ship:
                made.__annotations__["return"] = OrderShipped
                handler = made
            else:
                on_timeout = made
        options = {"retry": Retry(times=2), "within": WITHIN} | options
        app.join(*parts, on_timeout=on_timeout if timeout else None, **options)(handler)
        return self.stand_on(app)

    def stand_on(self, app: Service) -> Stage:
        """The next version runs on the store of the last one; messages that were sent and not delivered are lost."""
        before, self.stage = self.stage, Stage(app)
        if before is not None:
            self.stage._content = before._content
            store = before.store
            self.stage.store = self.stage.app.runtime.__dict__["store"] = store
            self.stage.app.runtime._store = self.stage._store = before._store
            self.stage._clock = before._clock
            self.stage.app.runtime.now = before._clock.now
            self.stage._known.clear()
            self.stage._look_at_declarations()
        return self.stage

    def show(self, key: str = "ORD-1") -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("choreo.cli.app.command_line_service", lambda *_: self.stage.app)
            return CliRunner().invoke(joins, ["show", key]).output

    def ended(self) -> int:
        """How often the join has ended: in its handler, in on_timeout, or in a dead letter."""
        return len(self.stage.events) + len(self.late) + len(self.stage.dead_letters)


@pytest.fixture
def shop() -> Shop:
    return Shop()


# -- one of a type, or several --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one to several", "several to one"])
def test_what_was_kept_for_one_of_a_type_counts_among_several_and_the_other_way_round(shop, name):
    one, several = (OrderPlaced, ItemPacked), (OrderPlaced, Several(ItemPacked, 2))
    before, after = (one, several) if name == "one to several" else (several, one)
    shop.deploy(*before).deliver(item("a"))

    stage = shop.deploy(*after)
    assert "waits for: order.placed" in shop.show()
    for part in (PLACED, item("a"), item("b")):
        stage.deliver(part)

    assert shop.runs == [["o-1", "i-a", "i-b"] if after is several else ["o-1", "i-a"]]
    assert list(stage.app.joins) == []


def test_the_same_event_does_not_count_twice_under_both_names(shop):
    shop.deploy(OrderPlaced, ItemPacked).deliver(item("a"))
    stage = shop.deploy(OrderPlaced, Several(ItemPacked, 2))

    stage.deliver(item("a"))
    stage.deliver(PLACED)
    assert "waits for: item.packed" in shop.show()
    assert shop.runs == []

    shop.deploy(OrderPlaced, ItemPacked).deliver(item("a"))
    assert shop.runs == [["o-1", "i-a"]]


def test_fewer_of_several_are_enough_for_the_next_event_that_comes(shop):
    shop.deploy(OrderPlaced, Several(ItemPacked, 3))
    for part in (PLACED, item("a"), item("b")):
        shop.stage.deliver(part)

    stage = shop.deploy(OrderPlaced, Several(ItemPacked, 2))
    assert "nothing: it is complete. It runs at its deadline at the latest" in shop.show()
    stage.deliver(item("c"))
    stage.pass_time(1)

    assert shop.runs == [["o-1", "i-a", "i-b"]]
    assert list(stage.app.joins) == []


@pytest.mark.parametrize("first", ["basket", "items"])
def test_how_many_are_needed_is_read_again_from_a_part_that_is_there(shop, first):
    basket = envelope(BasketFilled(items=["a", "b"], boxes=1), id="b-1")
    shop.deploy(BasketFilled, ItemPacked, OrderPlaced)
    shop.stage.deliver(basket if first == "basket" else item("a"))
    told = Several(ItemPacked, per="items", of=BasketFilled)

    stage = shop.deploy(BasketFilled, told, OrderPlaced)
    for part in (basket, item("a"), item("b"), PLACED):
        stage.deliver(part)
    stage.pass_time(TIME_IS_UP)

    assert shop.ended() == 1


def test_another_field_that_says_how_many_counts_from_its_deployment_on(shop):
    basket = envelope(BasketFilled(items=["a", "b", "c"], boxes=1), id="b-1")
    shop.deploy(BasketFilled, Several(ItemPacked, per="items", of=BasketFilled))
    for part in (basket, item("a")):
        shop.stage.deliver(part)
    assert "waits for: 2 x item.packed" in shop.show()

    stage = shop.deploy(BasketFilled, Several(ItemPacked, per="boxes", of=BasketFilled))
    assert "nothing: it is complete" in shop.show()
    stage.pass_time(TIME_IS_UP)

    assert shop.runs == [["b-1", "i-a"]]


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_part_that_was_renamed_is_waited_for_and_the_old_one_is_shown_as_such(shop):
    shop.deploy(OrderConfirmed, ItemPacked).deliver(CONFIRMED)

    stage = shop.deploy(OrderPlaced, ItemPacked)
    stage.deliver(item("a"))
    assert "waits for: order.placed" in shop.show()
    assert "order.confirmed ORD-1  (it does not count any more)" in shop.show()
    stage.pass_time(TIME_IS_UP)

    assert shop.late == [["i-a"]]


@pytest.mark.parametrize("timeout", [True, False])
@pytest.mark.parametrize("failed", [False, True])
def test_a_part_that_was_added_is_waited_for_until_the_deadline(shop, timeout, failed):
    if failed:
        shop.fail = [RetryLater(60)]
    shop.deploy(OrderPlaced, ItemPacked, timeout=timeout)
    for part in (PLACED, item("a"))[: 2 if failed else 1]:
        shop.stage.deliver(part)

    stage = shop.deploy(OrderPlaced, ItemPacked, PaymentCharged, timeout=timeout)
    stage.deliver(item("a"))
    assert "waits for: payment.charged" in shop.show()
    stage.pass_time(TIME_IS_UP)
    stage.pass_time(TIME_IS_UP)

    assert shop.late == ([["o-1", "i-a"]] if timeout else [])
    assert [letter.reason for letter in stage.dead_letters] == ([] if timeout else [Reason.EXPIRED])


def test_a_join_that_had_failed_runs_with_the_part_that_was_added(shop):
    shop.fail = [RetryLater(60)]
    shop.deploy(OrderPlaced, ItemPacked)
    for part in (PLACED, item("a")):
        shop.stage.deliver(part)

    stage = shop.deploy(OrderPlaced, ItemPacked, PaymentCharged)
    stage.pass_time(61)
    stage.deliver(CHARGED)

    assert shop.runs == [["o-1", "i-a"], ["o-1", "i-a", "p-1"]]
    assert list(stage.app.joins) == []


def test_a_join_whose_time_was_up_while_it_was_complete_still_ends_when_it_is_incomplete_now(shop):
    shop.fail = [RetryLater(2 * TIME_IS_UP)]
    shop.deploy(OrderPlaced, ItemPacked)
    for part in (PLACED, item("a")):
        shop.stage.deliver(part)
    shop.stage.pass_time(TIME_IS_UP)

    stage = shop.deploy(OrderPlaced, ItemPacked, PaymentCharged)
    stage.pass_time(2 * TIME_IS_UP)

    assert shop.late == [["o-1", "i-a"]]
    assert list(stage.app.joins) == []


def test_a_retry_with_a_part_that_was_removed_is_made_all_the_same(shop):
    shop.fail = [RetryLater(60)]
    shop.deploy(OrderPlaced, ItemPacked, PaymentCharged)
    for part in (PLACED, item("a"), CHARGED):
        shop.stage.deliver(part)

    stage = shop.deploy(OrderPlaced, ItemPacked)
    stage.pass_time(61)

    assert shop.runs == [["o-1", "i-a", "p-1"], ["o-1", "i-a"]]
    assert list(stage.app.joins) == []


def test_a_part_that_was_removed_and_comes_later_is_ignored_with_a_warning(shop, caplog):
    stage = shop.deploy(OrderPlaced, ItemPacked)

    stage.deliver(ASSIGNED)
    stage.deliver(ASSIGNED)

    assert caplog.text.count("shop.ship does not wait for driver.assigned ORD-1 (id d-1), and ignores it") == 1


def test_a_lower_quorum_runs_at_the_deadline_and_a_higher_one_waits(shop):
    shop.deploy(OrderPlaced, ItemPacked, PaymentCharged)
    for part in (PLACED, item("a")):
        shop.stage.deliver(part)
    stage = shop.deploy(OrderPlaced, ItemPacked, PaymentCharged, at_least=2)
    assert "nothing: it is complete. It runs at its deadline" in shop.show()
    shop.deploy(OrderPlaced, ItemPacked, PaymentCharged)
    assert "waits for: payment.charged" in shop.show()

    stage = shop.deploy(OrderPlaced, ItemPacked, PaymentCharged, at_least=2)
    stage.pass_time(TIME_IS_UP)

    assert shop.runs == [["o-1", "i-a"]]
    assert shop.late == []


def test_another_time_to_wait_leaves_a_pending_join_its_deadline(shop):
    shop.deploy(OrderPlaced, ItemPacked).deliver(PLACED)

    stage = shop.deploy(OrderPlaced, ItemPacked, within=timedelta(days=30))
    stage.pass_time(TIME_IS_UP)

    assert shop.late == [["o-1"]]


# -- the key ----------------------------------------------------------------------------------------------------------

BY = {OrderPlaced: None, ItemPacked: "order"}
BY_PARCEL = {OrderPlaced: None, ItemPacked: "parcel"}
PACKED = item("a", order="ORD-1", parcel="PAR-9")


def test_a_retry_and_a_replay_stay_with_the_key_that_the_join_had(shop):
    shop.fail = [RetryLater(60), PermanentFailure("no van")]
    shop.deploy(OrderPlaced, ItemPacked, by=BY)
    for part in (PLACED, PACKED):
        shop.stage.deliver(part)

    stage = shop.deploy(ItemPacked, OrderPlaced, by={ItemPacked: "parcel", OrderPlaced: None})
    stage.pass_time(61)
    (letter,) = stage.dead_letters
    assert sorted(shop.runs[1]) == ["i-a", "o-1"]
    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(1)

    assert [sorted(run) for run in shop.runs] == [["i-a", "o-1"]] * 3
    assert list(stage.app.joins) == []


def test_a_join_under_its_old_key_ends_at_its_deadline(shop):
    shop.deploy(OrderPlaced, ItemPacked, PaymentCharged, by={**BY, PaymentCharged: None})
    for part in (PLACED, PACKED):
        shop.stage.deliver(part)

    stage = shop.deploy(OrderPlaced, ItemPacked, by=BY_PARCEL)
    stage.pass_time(TIME_IS_UP)

    assert shop.runs == [["o-1", "i-a"]]
    assert list(stage.app.joins) == []


# -- a join that is none any more, and a handler that becomes one ------------------------------------------------------


def plain(*events: type[Event], seen: list[str]) -> Service:
    app = service("shop")

    @app.on(*[event.event_type for event in events])
    def ship(event: Envelope) -> None:
        seen.append(event.id)

    return app


def test_a_pending_join_whose_handler_is_none_any_more_ends_in_a_dead_letter_with_all_its_parts(shop):
    seen: list[str] = []
    shop.deploy(OrderPlaced, ItemPacked, PaymentCharged)
    for part in (PLACED, item("a")):
        shop.stage.deliver(part)

    stage = shop.stand_on(plain(OrderPlaced, ItemPacked, seen=seen))
    with pytest.raises(JoinError, match="its handler is no join any more"):
        stage.app.joins.fire("ORD-1")
    stage.pass_time(TIME_IS_UP)

    (letter,) = stage.dead_letters
    assert (letter.reason, sorted(part.id for part in letter.envelopes)) == (Reason.EXPIRED, ["i-a", "o-1"])
    assert "shop.ship is no join any more: item.packed, order.placed had arrived" in letter.error
    assert (seen, list(stage.app.joins)) == ([], [])

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(1)
    assert sorted(seen) == ["i-a", "o-1"]


def test_a_failed_event_of_a_handler_that_became_a_join_is_a_dead_letter_unless_the_join_waits_for_it(shop):
    stage = shop.deploy(OrderPlaced, ItemPacked)

    stage.deliver(PLACED, attempt=2)
    stage.deliver(CHARGED, attempt=2)

    (letter,) = stage.dead_letters
    assert "has become a join since this event failed, and does not wait for payment.charged" in letter.error
    assert "waits for: item.packed" in shop.show()
    with pytest.raises(DeadLetterError, match=r"does not wait for payment.charged any more.*--to SERVICE.HANDLER"):
        stage.app.dead_letters.replay(letter.id)
    assert stage.dead_letters == [letter]
