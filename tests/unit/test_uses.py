"""Which fields of an event the code of a handler uses is told from its source; in doubt it may use all."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
from pydantic import Field, computed_field

from choreo import Context, Envelope, Event, Proceed, Several
from choreo.declare.uses import fields_used, sees_events
from tests.unit.events import PaymentCharged
from tests.unit.stage import service


class BasketFilled(Event):
    customer_id: str
    cents: int = 0
    weight: int = 0
    shop: str = Field("", alias="theShop")

    @property
    def euros(self) -> float:
        return self.cents / 100

    @computed_field
    @property
    def title(self) -> str:
        return self.shop

    def is_heavy(self, limit: int) -> bool:
        return self.weight > limit


def told(basket: BasketFilled) -> None:
    if basket.cents > 5 and not basket.weight:
        print(f"{basket.customer_id} {basket.meta.subject} {basket.event_type}")


def with_properties(basket: BasketFilled) -> Any:
    return basket.euros, basket.is_heavy(5), basket.title


def nothing(basket: BasketFilled) -> None:
    """It has a name such as basket.cents in its text only."""
    print("basket.cents")


def judged(basket: BasketFilled | None) -> Any:
    assert basket is not None
    return basket and basket.cents if isinstance(basket, BasketFilled) else not basket


def renamed(basket: BasketFilled | None) -> Any:
    arrived = basket or None
    if (again := arrived) is not None:
        return again.cents
    return arrived.weight


def in_a_lambda(basket: BasketFilled) -> Any:
    return sorted([1, 2], key=lambda number: number * basket.cents)


def matched(basket: BasketFilled | PaymentCharged) -> Any:
    match basket:
        case BasketFilled(cents=cents, weight=5):
            return cents
        case PaymentCharged():
            return 0


def helped(basket: BasketFilled) -> Any:
    return helper(1, basket) + told_more(basket)


def helper(number: int, filled: BasketFilled) -> int:
    return filled.weight * number


def told_more(it: BasketFilled) -> int:
    return it.cents


def many(baskets: list[BasketFilled]) -> Any:
    total = sum(basket.cents for basket in baskets)
    for one in baskets:
        total += one.weight
    return total / len(baskets)


def loops(basket: BasketFilled) -> Any:
    return loops(basket) + basket.cents


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        (told, {"cents", "weight", "customer_id"}),
        (with_properties, {"cents", "weight", "shop"}),
        (nothing, set()),
        (judged, {"cents"}),
        (renamed, {"cents", "weight"}),
        (in_a_lambda, {"cents"}),
        (matched, {"cents", "weight"}),
        (helped, {"cents", "weight"}),
        (partial(helper, 5), {"weight"}),
    ],
)
def test_the_fields_that_a_function_names_are_those_it_uses(function: Callable[..., Any], fields: set[str]):
    name = "filled" if isinstance(function, partial) else "basket"

    assert fields_used(function, name, BasketFilled) == fields


def test_the_events_of_a_list_are_followed_through_loops():
    assert fields_used(many, "baskets", BasketFilled) == {"cents", "weight"}


def returned(basket: BasketFilled) -> Any:
    return basket


def dumped(basket: BasketFilled) -> Any:
    return basket.model_dump()


def passed(basket: BasketFilled) -> Any:
    return print(basket)


def shown(basket: BasketFilled) -> Any:
    return f"{basket}"


def kept(basket: BasketFilled) -> Any:
    return {"it": basket}


def by_name(basket: BasketFilled) -> Any:
    return getattr(basket, "ce" + "nts")


def through_meta(basket: BasketFilled) -> Any:
    return basket.meta.data["cents"]


def handed_on(basket: BasketFilled) -> Any:
    return [basket.meta]


def all_names(basket: BasketFilled) -> Any:
    return locals()


def captured(basket: BasketFilled) -> Any:
    match basket:
        case other:
            return other


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@wrapping
def wrapped(basket: BasketFilled) -> Any:
    return basket.cents


made = eval("lambda basket: basket.cents")


@pytest.mark.parametrize(
    "function",
    [
        returned,
        dumped,
        passed,
        shown,
        kept,
        by_name,
        through_meta,
        handed_on,
        all_names,
        captured,
        wrapped,
        made,
        loops,
    ],
)
def test_a_function_that_lets_the_event_go_may_use_all(function: Callable[..., Any]):
    assert fields_used(function, "basket", BasketFilled) is None


def envelope_told(event: Envelope) -> Any:
    return event.type, event.data["cents"], event.data.get("weight", 0)


def envelope_untold(event: Envelope) -> Any:
    return list(event.data)


def test_the_keys_that_are_taken_from_an_envelope_are_the_fields():
    assert fields_used(envelope_told, "event", Envelope) == {"cents", "weight"}
    assert fields_used(envelope_untold, "event", Envelope) is None


def timed(context: Context, proceed: Proceed) -> None:
    print(context.handler, context.envelope.subject)
    proceed()


def audited(context: Context, proceed: Proceed) -> None:
    print(context.envelope.data)
    proceed()


def test_a_context_shows_the_fields_only_to_those_that_take_them():
    assert not sees_events(timed, "context")
    assert sees_events(audited, "context")
    assert sees_events(wrapping(timed), "context")


def test_a_description_says_what_a_handler_uses_by_the_names_on_the_wire():
    app = service("shop")

    @app.on(BasketFilled)
    def fill(basket: BasketFilled, context: Context) -> None:
        print(basket.shop, context.subject)

    @app.on(BasketFilled, around=[audited])
    def audit(basket: BasketFilled) -> None:
        print(basket.shop)

    @app.join(
        Several(PaymentCharged, per="cents", of=BasketFilled),
        BasketFilled,
        by={PaymentCharged: "amount_cents", BasketFilled: "customer_id"},
    )
    def pay(charged: list[PaymentCharged], basket: BasketFilled) -> None:
        print(basket.weight, len(charged))

    fill_, audit_, pay_ = (app.describe().handler(f"shop.{name}") for name in ("fill", "audit", "pay"))

    assert fill_.uses == {"basket.filled": ("theShop",)}
    assert fill_.reads == {"basket.filled": ("customer_id", "cents", "weight", "theShop")}
    assert audit_.uses == {"basket.filled": None}
    assert pay_.uses == {"basket.filled": ("cents", "customer_id", "weight"), "payment.charged": ("amount_cents",)}
