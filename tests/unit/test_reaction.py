"""What a handler reads and announces follows from its annotations, and a bad one fails when it is declared."""

import functools
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Annotated, Optional

import pytest
from pydantic import BaseModel

from choreo import Context, Envelope, Event, UndeclaredEventWarning
from choreo.declare.reaction import Reaction, announced_by, inspect_function
from choreo.errors import DeclarationError, EnvelopeError
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged, PaymentFailed, envelope
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)


class Total(BaseModel):
    """A view: the one field that a reader needs."""

    total_cents: int


def context(**changes) -> Context:
    known = {"service": "payment", "handler": "payment.charge", "attempt": 1, "attempts": 6, "idempotency_key": "k"}
    return Context(**{"envelope": envelope(ORDER)} | known | changes)


def react(function, *envelopes: Envelope | None) -> list[Envelope]:
    return inspect_function(function)(envelopes or [envelope(ORDER)], context())


def announced(function) -> list[str]:
    return [found.type for found in react(function)]


# -- what it reads ----------------------------------------------------------------------------------------------


def test_a_handler_reads_the_event_with_its_metadata():
    read = []

    def charge(order: OrderPlaced) -> None:
        read.append((order, order.meta.subject))

    react(charge)

    assert read == [(ORDER, "ORD-1")]


def test_a_plain_model_is_a_view_of_the_fields_that_the_handler_needs():
    read = []

    def charge(order: Total) -> None:
        read.append(order)

    react(charge)

    assert read == [Total(total_cents=500)]


def test_a_handler_can_ask_for_the_envelope_and_the_context():
    read = []

    def watch(received: Envelope, context: Context) -> None:
        read.append((received.type, context.attempt))

    react(watch)

    assert read == [("order.placed", 1)]


def test_a_handler_of_two_events_gets_each_in_its_own_class():
    read = []

    def watch(event: OrderPlaced | PaymentCharged) -> None:
        read.append(event)

    react(watch, envelope(PaymentCharged(amount_cents=5)))
    react(watch, envelope(ORDER))

    assert read == [PaymentCharged(amount_cents=5), ORDER]


def test_a_join_gets_none_for_a_part_that_has_not_arrived():
    read = []

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None:
        read.append((confirmed, charged))

    react(give_up, None, envelope(PaymentCharged()))

    assert read == [(None, PaymentCharged())]


def test_data_that_does_not_fit_is_said_with_the_event_and_the_model():
    def charge(order: OrderPlaced) -> None:
        raise AssertionError("must not be called")

    with pytest.raises(EnvelopeError, match=r"(?s)order.placed ORD-1 does not fit OrderPlaced: .*customer_id"):
        react(charge, envelope(ORDER, data={}))


# -- what it announces ------------------------------------------------------------------------------------------


def returns_one(order: OrderPlaced) -> PaymentCharged:
    return PaymentCharged()


def returns_nothing(order: OrderPlaced) -> PaymentCharged | None:
    return None


def returns_a_list(order: OrderPlaced) -> list[PaymentCharged | DriverAssigned]:
    return [PaymentCharged(), DriverAssigned()]


def returns_a_tuple(order: OrderPlaced) -> tuple[PaymentCharged, DriverAssigned]:
    return PaymentCharged(), DriverAssigned()


def is_a_generator(order: OrderPlaced) -> Iterator[PaymentCharged]:
    yield PaymentCharged()
    yield PaymentCharged(amount_cents=1)


def says_nothing(order: OrderPlaced):
    return PaymentCharged()


@pytest.mark.parametrize(
    ("function", "types"),
    [
        (returns_one, ["payment.charged"]),
        (returns_nothing, []),
        (returns_a_list, ["payment.charged", "driver.assigned"]),
        (returns_a_tuple, ["payment.charged", "driver.assigned"]),
        (is_a_generator, ["payment.charged", "payment.charged"]),
        (says_nothing, ["payment.charged"]),
    ],
)
def test_what_is_returned_is_announced(function, types):
    assert announced(function) == types


def generates(order: OrderPlaced) -> Generator[PaymentCharged | PaymentFailed, None, None]:
    yield PaymentCharged()


def maybe(order: OrderPlaced) -> Optional[PaymentCharged]:  # noqa: UP045 - old spelling, still in use
    return None


def remarks(order: OrderPlaced) -> Annotated[PaymentCharged, "a remark"]:
    return PaymentCharged()


@pytest.mark.parametrize(
    ("function", "events"),
    [
        (returns_one, (PaymentCharged,)),
        (returns_nothing, (PaymentCharged,)),
        (returns_a_list, (PaymentCharged, DriverAssigned)),
        (returns_a_tuple, (PaymentCharged, DriverAssigned)),
        (is_a_generator, (PaymentCharged,)),
        (generates, (PaymentCharged, PaymentFailed)),
        (maybe, (PaymentCharged,)),
        (remarks, (PaymentCharged,)),
        (says_nothing, None),
    ],
)
def test_the_return_annotation_says_what_may_be_announced(function, events):
    assert inspect_function(function).announces == events


def test_an_event_that_is_not_declared_is_announced_with_a_warning():
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentFailed()

    with pytest.warns(UndeclaredEventWarning, match=r"charge announced payment.failed, which its return ann") as told:
        assert announced(charge) == ["payment.failed"]
    assert "leaves all the same. Add its class to the annotation" in str(told[0].message)


@pytest.mark.parametrize(
    "wrong", ["done", 5, {"type": "x"}, [PaymentCharged(), "x"], {PaymentCharged()}, PaymentCharged]
)
def test_returning_what_is_no_event_is_an_error(wrong):
    def charge(order: OrderPlaced):
        return wrong

    with pytest.raises(TypeError, match=r"charge returned .* an event, a list or generator of events, or None"):
        react(charge)


def test_nothing_is_announced_when_a_generator_fails_halfway():
    given = context()

    def charge(order: OrderPlaced) -> Iterator[PaymentCharged]:
        yield PaymentCharged()
        raise RuntimeError("gateway down")

    with pytest.raises(RuntimeError, match="gateway down"):
        inspect_function(charge)([envelope(ORDER)], given)
    assert given.announced == []


# -- what is refused --------------------------------------------------------------------------------------------


def refused(function) -> str:
    with pytest.raises(DeclarationError) as caught:
        inspect_function(function)
    return str(caught.value)


def test_a_parameter_without_annotation_is_refused_with_what_could_be_there():
    def charge(order):
        pass

    assert "charge, parameter 'order' has no annotation. Say what it reads: order: OrderPlaced" in refused(charge)


@pytest.mark.parametrize(
    "annotation", [int, str, dict, list[int], list[Context], list[OrderPlaced] | None, OrderPlaced | int, None, 5]
)
def test_an_annotation_that_cannot_read_an_event_is_refused(annotation):
    def charge(order):
        pass

    charge.__annotations__["order"] = annotation

    assert "parameter 'order'" in refused(charge)
    assert "Use an event class, a pydantic model with the fields you need, Envelope, or Context." in refused(charge)


@pytest.mark.parametrize(
    "annotation",
    ["Missing", "events.Missing", "OrderPlaced | Missing", "OrderPlaced |", "OrderPlaced[int]"],
)
def test_an_annotation_that_cannot_be_resolved_is_refused(annotation):
    def charge(order):
        pass

    charge.__annotations__["order"] = annotation
    charge.__globals__["events"] = pytest

    assert "charge: an annotation cannot be resolved" in refused(charge)
    assert "at module level" in refused(charge)


def test_an_async_handler_is_read_as_any_other():
    async def charge(order: OrderPlaced) -> PaymentCharged: ...

    async def charge_all(order: OrderPlaced) -> AsyncIterator[PaymentCharged]:
        yield PaymentCharged()

    for function in (charge, charge_all):
        reaction = inspect_function(function)
        assert reaction.is_async
        assert reaction.announces == (PaymentCharged,)
        assert [parameter.models for parameter in reaction.inputs] == [(OrderPlaced,)]


def test_star_arguments_are_refused():
    def stars(*orders: OrderPlaced) -> None:
        pass

    def keywords(**orders: OrderPlaced) -> None:
        pass

    def positional(order: OrderPlaced, /) -> None:
        pass

    for function in (stars, keywords, positional):
        assert "a handler takes named parameters, not *args, **kwargs or positional-only" in refused(function)


@pytest.mark.parametrize("annotation", [str, list[str], dict[str, OrderPlaced], PaymentCharged | bool, list, Envelope])
def test_a_return_annotation_that_is_no_event_is_refused(annotation):
    def charge(order: OrderPlaced):
        pass

    charge.__annotations__["return"] = annotation

    assert "which is not an event. A handler returns an event, a list or generator of events, or None." in refused(
        charge
    )


@pytest.mark.parametrize("annotation", [set[PaymentCharged], frozenset[PaymentCharged], dict[PaymentCharged, int]])
def test_a_return_annotation_that_would_fail_at_every_call_is_refused(annotation):
    def charge(order: OrderPlaced):
        pass

    charge.__annotations__["return"] = annotation

    assert "charge returns" in refused(charge)


class AboutPayment(Event, abstract=True):
    pass


class PaymentDelayed(AboutPayment):
    pass


@pytest.mark.parametrize("base", [Event, AboutPayment])
def test_a_return_annotation_that_names_no_event_in_particular_is_refused(base):
    def charge(order: OrderPlaced):
        return PaymentDelayed()

    charge.__annotations__["return"] = base

    assert f"charge returns {base!r}, which" in refused(charge)
    assert "Name those that it may announce: -> PaymentCharged | PaymentFailed" in refused(charge)


@pytest.mark.parametrize("thing", [OrderPlaced, 5, "charge"], ids=["class", "number", "text"])
def test_what_is_no_function_is_refused(thing):
    with pytest.raises(DeclarationError, match="function"):
        inspect_function(thing)


def test_a_decorated_handler_is_read_through_its_decorator():
    @functools.wraps(returns_one)
    def wrapped(*args, **kwargs):
        return returns_one(*args, **kwargs)

    reaction = inspect_function(wrapped)

    assert isinstance(reaction, Reaction)
    assert reaction.announces == (PaymentCharged,)
    assert announced(wrapped) == ["payment.charged"]


# -- other things that can be called, and parameters that read no event -----------------------------------------


class Gateway:
    """No model: it cannot read an event."""


GATEWAY = Gateway()


class Settings(BaseModel):
    currency: str = "EUR"


class Shop:
    def charge(self, order: OrderPlaced, gateway: Gateway = GATEWAY) -> PaymentCharged:
        """Charge in this shop."""
        assert gateway is GATEWAY
        return PaymentCharged(amount_cents=order.total_cents)

    @staticmethod
    def charge_anywhere(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged(amount_cents=order.total_cents)

    @classmethod
    def charge_everywhere(cls, order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged(amount_cents=order.total_cents)


class ChargeCustomer:
    """Charges when it is called."""

    def __call__(self, order: OrderPlaced, context: Context) -> PaymentCharged:
        """Charge."""
        assert context.subject == order.meta.subject
        return PaymentCharged(amount_cents=order.total_cents)


def charge_with(gateway: Gateway, order: OrderPlaced) -> PaymentCharged:
    assert gateway is GATEWAY
    return PaymentCharged()


def charge_by(order: OrderPlaced, gateway: Gateway) -> PaymentCharged:
    assert gateway is GATEWAY
    return PaymentCharged()


def untyped(order: OrderPlaced, session=None, *, retries=3) -> PaymentCharged:
    assert (session, retries) == (None, 3)
    return PaymentCharged()


def typed(order: OrderPlaced, gateway: Gateway | None = None, names: tuple[str, ...] = (), x: int = 5) -> None:
    assert (gateway, names, x) == (None, (), 5)


def set_up(order: OrderPlaced, settings: Settings = Settings(), view: Total | None = None) -> PaymentCharged:  # noqa: B008
    assert (settings, view) == (Settings(), None)
    return PaymentCharged()


def of_one_more_event(order: OrderPlaced, charged: PaymentCharged = PaymentCharged()) -> PaymentCharged:  # noqa: B008
    return charged


SHOP = Shop()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (SHOP.charge, "charge"),
        (Shop.charge_anywhere, "charge_anywhere"),
        (Shop.charge_everywhere, "charge_everywhere"),
        (Shop.__dict__["charge_anywhere"], "charge_anywhere"),
        (ChargeCustomer(), "charge_customer"),
        (functools.partial(returns_one), "returns_one"),
        (functools.partial(charge_with, GATEWAY), "charge_with"),
        (functools.partial(charge_by, gateway=GATEWAY), "charge_by"),
        (functools.partial(functools.partial(charge_by, gateway=None), gateway=GATEWAY), "charge_by"),
        (functools.partial(ChargeCustomer()), "charge_customer"),
        (functools.partial(of_one_more_event, charged=PaymentCharged()), "of_one_more_event"),
        (untyped, "untyped"),
        (typed, "typed"),
        (set_up, "set_up"),
    ],
)
def test_anything_that_can_be_called_is_a_handler_and_parameters_that_read_no_event_keep_their_values(function, name):
    app = service("payment")
    app.on(OrderPlaced)(function)

    done = Stage(app).deliver(ORDER)

    assert [subscription.name for subscription in app.subscriptions] == [f"payment.{name}"]
    assert done.successful(), done.result
    assert app.tasks[f"payment.{name}"].__module__ == __name__


def test_a_view_with_a_default_reads_the_event_if_nothing_else_does():
    def charge(order: Total = Total(total_cents=1)) -> None:  # noqa: B008
        assert order.total_cents == 500

    react(charge)


def test_a_second_event_with_a_default_is_refused_as_before():
    app = service("payment")

    with pytest.raises(DeclarationError, match="takes 2 events"):
        app.on(OrderPlaced)(of_one_more_event)


def test_a_method_without_its_object_is_refused_with_the_way_to_declare_it():
    assert "parameter 'self': this is a method, and no object has it yet. Declare it with its object: " in refused(
        Shop.charge
    )
    assert "app.on(OrderPlaced)(shop.charge)" in refused(Shop.charge)


def test_what_cannot_be_injected_is_refused_with_the_way_out():
    assert "If it reads no event, give it a default" in refused(charge_by)


def test_async_methods_objects_and_partials_are_async_handlers():
    class Later:
        async def __call__(self, order: OrderPlaced) -> None: ...

        async def charge(self, order: OrderPlaced) -> None: ...

    for function in (Later(), Later().charge, functools.partial(Later().charge)):
        assert inspect_function(function).is_async


def injected(order: OrderPlaced, session: "OnlyForTypeCheckers" = None) -> None:  # type: ignore[name-defined]  # noqa: F821
    assert session is None


def needed(order: "OnlyForTypeCheckers", session: "OnlyForTypeCheckers" = None) -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


@functools.singledispatch
def dispatch(event: OrderPlaced) -> None: ...


class Dispatching:
    @functools.singledispatchmethod
    def hear(self, event: OrderPlaced) -> None: ...


@pytest.mark.parametrize(
    "function", [dispatch, functools.partial(dispatch), Dispatching().hear], ids=["function", "partial", "method"]
)
def test_single_dispatch_is_refused_with_the_ways_out(function):
    text = refused(function)

    assert "is a functools.singledispatch function" in text
    assert "@app.on(OrderPlaced)" in text
    assert "(event: OrderPlaced | OrderCancelled)" in text


def test_a_decorator_that_takes_no_names_is_refused_with_the_way_out():
    def timed(function):
        @functools.wraps(function)
        def run(*args):
            return function(*args)

        return run

    @timed
    def charge(order: OrderPlaced) -> None: ...

    text = refused(charge)
    assert "a decorator above it takes no arguments by name" in text
    assert "*args and **kwargs" in text


def test_a_decorator_written_in_c_is_no_handlers_fault():
    @functools.lru_cache
    def charge(order: OrderPlaced) -> None: ...

    assert [parameter.name for parameter in inspect_function(charge).inputs] == ["order"]


def test_a_default_whose_annotation_is_known_to_type_checkers_only_is_left_alone():
    assert react(injected, envelope(ORDER)) == []
    assert "an annotation cannot be resolved" in refused(needed)


def test_the_return_annotation_of_code_without_a_module_is_read():
    names: dict[str, object] = {"Charged": PaymentCharged}
    exec("def charge() -> 'Charged': ...", names)  # as notebooks and documentation run code

    assert announced_by(names["charge"]) == (PaymentCharged,)
