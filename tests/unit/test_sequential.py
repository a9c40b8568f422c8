"""Events of one key are handled one after another: on a stage, where one delivery is made at a time."""

from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import create_model

from choreo import DeclarationError, Envelope, Event, PermanentFailure, Retry, RetryLater, Series, testing
from choreo.testing import Stage
from tests.unit.events import OrderPlaced
from tests.unit.stage import service


class Colour(Enum):
    RED = "red"


class StockMoved(Event):
    number: int
    shelf: str | None = None


#: The orders of which the first attempts fail, with the number of these attempts.
Failing = dict[int, int]


class Shop:
    """A service with one handler, on a stage."""

    def __init__(self, failing: Failing | None = None, by: Any = "subject", **options: Any) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        app = service("shop", retry=Retry(times=3))
        left = dict(failing or {})

        @app.on(StockMoved, sequential_by=by, **options)
        def book(moved: StockMoved) -> None:
            self.begun.append(moved.number)
            if left.get(moved.number, 0):
                left[moved.number] -= 1
                raise RetryLater(60)
            if moved.number < 0:
                raise PermanentFailure("never")
            self.done.append(moved.number)

        self.app = app
        self.stage: Stage = testing.stage(app)

    def move(self, number: int, subject: str = "SKU-1", shelf: str | None = None) -> Envelope:
        return self.stage.publish(StockMoved(number=number, shelf=shelf), subject)


def test_a_retry_holds_the_later_events_of_its_key_and_no_others() -> None:
    shop = Shop({1: 2})
    for number in (1, 2, 3):
        shop.move(number)
    shop.move(10, "SKU-2")

    shop.stage.run()
    assert (shop.begun, shop.done) == ([1, 10], [10])

    shop.stage.advance(seconds=61)
    assert shop.begun == [1, 10, 1]
    shop.stage.advance(seconds=61)

    assert shop.done == [10, 1, 2, 3]


def test_retries_may_let_the_later_events_pass() -> None:
    shop = Shop({1: 1}, by=Series("subject", retries_pass=True))
    for number in (1, 2, 3):
        shop.move(number)

    shop.stage.run()
    assert shop.done == [2, 3]
    shop.stage.advance(seconds=61)

    assert shop.done == [2, 3, 1]


def test_the_next_event_goes_on_after_a_dead_letter_and_the_replayed_one_comes_last() -> None:
    shop = Shop()
    shop.move(-1)
    shop.move(2)

    shop.stage.run()

    assert shop.begun == [-1, 2]
    (letter,) = shop.stage.dead_letters
    assert letter.handler == "shop.book"


def test_events_that_come_while_an_event_waits_for_its_retry_keep_their_order() -> None:
    shop = Shop({1: 3, 2: 1})
    shop.move(1)
    shop.stage.run()
    for number in (2, 3, 4):
        shop.stage.advance(seconds=1)
        shop.move(number)
        shop.stage.run()

    shop.stage.advance(minutes=10)

    assert shop.done == [1, 2, 3, 4]
    assert shop.begun == [1, 1, 1, 1, 2, 2, 3, 4]


def test_a_duplicate_runs_nothing_and_holds_nothing_up() -> None:
    shop = Shop({1: 1})
    first = shop.move(1)
    shop.move(2)
    shop.stage.run()
    shop.stage.publish(first)
    shop.stage.run()

    shop.stage.advance(seconds=61)

    assert shop.done == [1, 2]
    shop.stage.publish(first)
    shop.stage.run()
    shop.move(3)
    shop.stage.run()
    assert shop.done == [1, 2, 3]


def test_a_field_may_be_the_key_and_an_event_without_one_waits_for_none() -> None:
    shop = Shop({1: 1, 5: 1}, by="shelf")
    shop.move(1, shelf="A")
    shop.move(2, "SKU-2", shelf="A")
    shop.move(3, shelf="B")
    shop.move(5)
    shop.move(6)

    shop.stage.run()

    assert shop.done == [3, 6]
    shop.stage.advance(seconds=61)
    assert sorted(shop.done) == [1, 2, 3, 5, 6]


def test_an_event_that_waits_is_told_by_words_and_costs_no_attempt() -> None:
    shop = Shop({1: 1})
    shop.move(1)
    shop.move(2)

    shop.stage.run()

    waiting = shop.stage.deliveries[-1]
    assert "waits for its turn" in str(waiting.outcome)
    shop.stage.advance(timedelta(minutes=2))
    assert shop.begun == [1, 1, 2]


@pytest.mark.parametrize("wrong", [1, True, "", ["subject"]])
def test_a_key_is_a_name(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match=r"sequential_by=.* is no key"):
        Shop(by=wrong)


def test_a_field_that_the_event_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(DeclarationError, match="sequential_by='self', but StockMoved has number, shelf"):
        Shop(by="self")


@pytest.mark.parametrize(
    ("kind", "told"),
    [(float, "number"), (bool, "boolean"), (list[str], "array"), (None, "null"), (float | None, "number")],
)
def test_a_field_that_is_never_a_key_is_refused(kind: Any, told: str) -> None:
    measured = create_model("StockMeasured", __base__=Event, amount=(kind, ...))
    app = service("shop")

    with pytest.raises(DeclarationError, match=f"sequential_by='amount' is of the JSON type {told} in StockMeasured"):

        @app.on(measured, sequential_by="amount")
        def book(stock: Envelope) -> None: ...


@pytest.mark.parametrize("kind", [UUID, date, Decimal, Colour, Literal[1, 2], str | None, float | int, Any])
def test_a_field_that_is_a_key_at_times_is_taken(kind: Any) -> None:
    measured = create_model("StockMeasured", __base__=Event, amount=(kind, ...))
    app = service("shop")

    @app.on(measured, sequential_by="amount")
    def book(stock: Envelope) -> None: ...

    assert app.runtime.describe().handler("shop.book").sequential_by == "amount"


def test_a_field_of_a_pattern_is_refused() -> None:
    app = service("shop")

    with pytest.raises(DeclarationError, match=r"the pattern 'stock.\*' may have others"):

        @app.on("stock.*", sequential_by="shelf")
        def book(moved: Envelope) -> None: ...


def test_the_subject_of_a_pattern_will_do() -> None:
    app = service("shop")

    @app.on("stock.*", sequential_by="subject")
    def book(moved: Envelope) -> None: ...

    assert app.runtime.describe().handler("shop.book").sequential_by == "subject"


def test_a_join_has_no_order_and_says_why() -> None:
    app = service("shop")

    with pytest.raises(DeclarationError, match="a join has one run for each key already"):
        app.join(OrderPlaced, StockMoved, sequential_by="subject")


def test_an_undo_has_no_order() -> None:
    app = service("shop")

    @app.on(OrderPlaced)
    def reserve(order: OrderPlaced) -> StockMoved: ...

    with pytest.raises(DeclarationError, match="sequential_by='subject' does not fit undoes="):

        @app.on(OrderPlaced, undoes=StockMoved, sequential_by="subject")
        def release(moved: StockMoved) -> None: ...


@pytest.mark.parametrize("wrong", [{"by": 3}, {"by": ""}, {"retries_pass": 1}])
def test_a_series_checks_its_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="Series"):
        Series(**wrong)


def test_the_trace_says_behind_which_event_another_one_waits() -> None:
    shop = Shop({1: 1})
    first = shop.move(1)
    second = shop.move(2)
    shop.stage.run()

    with shop.stage:
        (trace,) = shop.app.observe.trace(second.id)
        (entry,) = [entry for entry in shop.app.schedule.find("SKU-1") if entry.kind == "turn"]

    assert trace.cause.name == "its turn"
    assert trace.cause.text.endswith(f"behind event {first.id} of SKU-1")
    (words,) = [line.step.end.words(trace.now) for line in trace.lines if line.step and line.step.end]
    assert words == f"waits for its turn behind event {first.id} of SKU-1"
    assert entry.attempt == 1


def test_the_next_event_goes_on_when_the_retry_before_it_is_dropped() -> None:
    shop = Shop({1: 1})
    shop.move(1)
    shop.move(2)
    shop.stage.run()

    with shop.stage:
        (retry,) = [entry for entry in shop.app.schedule.find("SKU-1") if entry.kind == "retry"]
        shop.app.schedule.drop(retry.id)
        (waiting,) = [entry for entry in shop.app.schedule.find("SKU-1") if entry.kind == "turn"]
        shop.app.schedule.now(waiting.id)
    shop.stage.advance(seconds=1)

    assert shop.done == [2]
    assert len(shop.stage.dead_letters) == 1


def test_a_handler_that_is_a_coroutine_has_its_turn_too() -> None:
    begun: list[int] = []
    app = service("shop", retry=Retry(times=3))

    @app.on(StockMoved, sequential_by="subject")
    async def book(moved: StockMoved) -> None:
        begun.append(moved.number)
        if begun == [1]:
            raise RetryLater(60)

    stage = testing.stage(app)
    for number in (1, 2):
        stage.publish(StockMoved(number=number), "SKU-1")

    stage.run()
    assert begun == [1]
    stage.advance(seconds=61)

    assert begun == [1, 1, 2]
