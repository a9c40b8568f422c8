"""Middleware: functions that are called around a handler, declared with `@app.around` or `around=[...]`."""

import functools
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from choreo import Context, Envelope, PermanentFailure, Proceed, Reason, Retry, RetryLater, Service
from choreo.declare.reaction import Reaction
from choreo.errors import DeclarationError, MiddlewareError
from tests.unit.events import OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, PaymentFailed
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)
MINUTE = 60.0


class GatewayDown(Exception):
    pass


def noting(name: str, notes: list[str]) -> Callable[[Context, Proceed], None]:
    """Middleware that notes its beginning and its end."""

    def middleware(context: Context, proceed: Proceed) -> None:
        notes.append(f"{name} begins")
        proceed()
        notes.append(f"{name} ends")

    return middleware


def stage_with(middleware: Any, handle: Callable[[OrderPlaced], Any] = lambda *_: None, **options: Any) -> Stage:
    """A payment service with one handler and this middleware around it."""
    app = service("payment")
    app.around(middleware)

    @app.on(OrderPlaced, **{"retry": Retry(times=1, first=1, cap=1), **options})
    def charge(order: OrderPlaced):
        return handle(order)

    return Stage(app)


# -- order --------------------------------------------------------------------------------------------------------


def test_the_services_middleware_is_outside_and_the_first_is_outermost():
    notes: list[str] = []
    app = service("payment")
    app.around(noting("service 1", notes))

    @app.on(OrderPlaced, around=[noting("own 1", notes), noting("own 2", notes)])
    def charge(order: OrderPlaced):
        notes.append("handler")

    app.around(noting("service 2", notes))

    Stage(app).deliver(ORDER)

    names = ["service 1", "service 2", "own 1", "own 2"]
    assert notes == [
        *(f"{name} begins" for name in names),
        "handler",
        *(f"{name} ends" for name in reversed(names)),
    ]


def test_middleware_of_a_handler_is_around_no_other():
    notes: list[str] = []
    app = service("payment")

    @app.on(OrderPlaced, around=[noting("own", notes)])
    def charge(order: OrderPlaced):
        notes.append("charge")

    @app.on(OrderPlaced)
    def count(order: OrderPlaced):
        notes.append("count")

    stage = Stage(app)

    stage.deliver(ORDER, "payment.charge")
    stage.deliver(ORDER, "payment.count")
    assert notes == ["own begins", "charge", "own ends", "count"]


def test_a_service_knows_only_its_own_middleware():
    notes: list[str] = []
    other, app = service("other"), service("payment")
    other.around(noting("other", notes))
    app.on(OrderPlaced)(handler_that(lambda: notes.append("handler")))

    Stage(app).deliver(ORDER)

    assert notes == ["handler"]


def test_the_decorator_leaves_the_function_as_it_is():
    app = service("payment")
    middleware = noting("service", [])

    assert app.around(middleware) is middleware


# -- joins --------------------------------------------------------------------------------------------------------


def join_stage(notes: list[Any]) -> Stage:
    app = service("driver")

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None):
        notes.append("on_timeout")

    @app.join(
        OrderConfirmed,
        PaymentCharged,
        unless=OrderRejected,
        within=timedelta(minutes=5),
        on_timeout=give_up,
        around=[noting("own", notes)],
    )
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged):
        notes.append("handler")

    @app.around
    def seen(context: Context, proceed: Proceed) -> None:
        notes.append([event.type for event in context.events])
        proceed()

    return Stage(app)


def test_a_join_is_surrounded_once_it_is_complete():
    notes: list[Any] = []
    stage = join_stage(notes)

    stage.deliver(PaymentCharged(), id="e-1")
    assert notes == []

    stage.deliver(OrderConfirmed(), id="e-2")
    assert notes == [["order.confirmed", "payment.charged"], "own begins", "handler", "own ends"]


def test_on_timeout_is_surrounded_as_the_handler_is():
    notes: list[Any] = []
    stage = join_stage(notes)

    stage.deliver(PaymentCharged(), id="e-1")
    stage.pass_time(10 * MINUTE)

    assert notes == [["payment.charged"], "own begins", "on_timeout", "own ends"]


def test_a_cancellation_calls_no_handler_and_so_no_middleware():
    notes: list[Any] = []
    stage = join_stage(notes)

    stage.deliver(OrderRejected(), id="e-1")

    assert notes == []


# -- the context and the events -----------------------------------------------------------------------------------


def test_middleware_sees_the_delivery_and_the_events_that_are_going_to_be_announced():
    seen: list[tuple[Any, ...]] = []
    returned: list[list[Envelope]] = []

    def middleware(context: Context, proceed: Proceed) -> None:
        facts = (context.handler, context.subject, context.attempt, context.envelope.id, context.correlation_id)
        seen.append((*facts, [event.id for event in context.events]))
        returned.append(proceed())

    failures = [GatewayDown(), None]

    def handle(order: OrderPlaced):
        if error := failures.pop(0):
            raise error
        return [PaymentCharged(amount_cents=order.total_cents), PaymentFailed()]

    stage = stage_with(middleware, handle)
    stage.deliver(ORDER, subject="ORD-1", id="e-1")
    stage.pass_time(MINUTE)

    assert seen == [("payment.charge", "ORD-1", attempt, "e-1", "story-1", ["e-1"]) for attempt in (1, 2)]
    (events,) = returned
    assert [event.type for event in events] == ["payment.charged", "payment.failed"]
    assert events == stage.events


def test_an_event_that_middleware_publishes_joins_the_batch():
    app = service("payment")

    @app.around
    def audited(context: Context, proceed: Proceed) -> None:
        app.publish(OrderConfirmed(restaurant_id="before"))
        events = proceed()
        app.publish(OrderRejected(reason=f"after {len(events)}"))

    outcomes = [GatewayDown(), None]

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced):
        if error := outcomes.pop(0):
            raise error
        return PaymentCharged()

    stage = Stage(app)

    stage.deliver(ORDER, subject="ORD-1", id="e-1")
    assert stage.types == [], "the attempt failed"

    stage.pass_time(MINUTE)
    assert stage.types == ["order.confirmed", "payment.charged", "order.rejected"]
    assert stage.events[-1].data == {"reason": "after 2"}
    assert {(event.subject, event.causation_id) for event in stage.events} == {("ORD-1", "e-1")}


def test_outer_middleware_sees_the_events_of_the_inner_as_well():
    app = service("payment")
    returned: list[list[str]] = []

    def noted(context: Context, proceed: Proceed) -> None:
        returned.append([event.type for event in proceed()])

    def adds(context: Context, proceed: Proceed) -> None:
        proceed()
        app.publish(PaymentFailed())

    app.around(noted)

    @app.on(OrderPlaced, around=[adds, noted])
    def charge(order: OrderPlaced):
        return PaymentCharged()

    Stage(app).deliver(ORDER)

    assert returned == [["payment.charged"], ["payment.charged", "payment.failed"]]


def test_the_list_that_proceed_returns_is_a_copy():
    stage = stage_with(lambda _, proceed: proceed().clear(), lambda *_: PaymentCharged())

    stage.deliver(ORDER)

    assert stage.types == ["payment.charged"]


def test_the_return_value_of_middleware_does_not_count():
    stage = stage_with(lambda _, proceed: [proceed(), PaymentFailed()], lambda *_: PaymentCharged())

    assert stage.deliver(ORDER).state == "SUCCESS"
    assert stage.types == ["payment.charged"]


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_of_middleware_is_a_failure_of_its_handler(when: str):
    def middleware(context: Context, proceed: Proceed) -> None:
        if when == "after":
            proceed()
        raise GatewayDown("no session")

    stage = stage_with(middleware, lambda *_: PaymentCharged())

    assert stage.deliver(ORDER, id="e-1").state == "RETRY"
    assert stage.dead_letters == []

    assert [type(made.error) for made in stage.pass_time(MINUTE)] == [GatewayDown]
    (letter,) = stage.dead_letters
    assert (letter.reason, letter.error, letter.attempts) == (Reason.EXHAUSTED, "GatewayDown: no session", 2)
    assert [event.id for event in letter.envelopes] == ["e-1"]
    assert stage.types == []


def test_middleware_may_refuse_an_event_for_good():
    def middleware(context: Context, proceed: Proceed) -> None:
        raise PermanentFailure("not for us")

    stage = stage_with(middleware)

    assert stage.deliver(ORDER).state == "FAILURE"
    assert [letter.reason for letter in stage.dead_letters] == [Reason.REFUSED]


def test_middleware_may_put_an_event_off():
    waits = [RetryLater(30), None]
    calls: list[OrderPlaced] = []

    def middleware(context: Context, proceed: Proceed) -> None:
        if error := waits.pop(0):
            raise error
        proceed()

    stage = stage_with(middleware, calls.append)
    stage.deliver(ORDER)

    assert stage.pass_time(29) == []
    assert [made.error for made in stage.pass_time(2)] == [None]
    assert len(calls) == 1


def test_the_handlers_error_comes_out_of_proceed():
    caught: list[Exception] = []

    def middleware(context: Context, proceed: Proceed) -> None:
        try:
            proceed()
        except GatewayDown as error:
            caught.append(error)
            raise PermanentFailure("the gateway is down") from error

    def handle(order: OrderPlaced):
        raise GatewayDown("503")

    stage = stage_with(middleware, handle)

    assert stage.deliver(ORDER).state == "FAILURE"
    assert [str(error) for error in caught] == ["503"]
    assert [letter.error for letter in stage.dead_letters] == ["PermanentFailure: the gateway is down"]


def test_middleware_that_catches_an_error_makes_the_event_done():
    def middleware(context: Context, proceed: Proceed) -> None:
        with suppress(GatewayDown):
            proceed()

    calls: list[OrderPlaced] = []

    def handle(order: OrderPlaced):
        calls.append(order)
        raise GatewayDown

    stage = stage_with(middleware, handle)

    assert [stage.deliver(ORDER, id="e-1").state for _ in range(2)] == ["SUCCESS", "SUCCESS"]
    assert len(calls) == 1
    assert stage.dead_letters == []


def test_returning_without_a_call_of_proceed_loses_nothing():
    def forgetful(context: Context, proceed: Proceed) -> None:
        """Does not proceed."""

    calls: list[OrderPlaced] = []
    stage = stage_with(forgetful, calls.append)

    first = stage.deliver(ORDER, id="e-1")
    (second,) = stage.pass_time(MINUTE)

    assert first.state == "RETRY"
    assert isinstance(second.error, MiddlewareError)
    (letter,) = stage.dead_letters
    assert [event.id for event in letter.envelopes] == ["e-1"]
    assert "forgetful returned without calling proceed()" in letter.error
    assert "raise RetryLater or PermanentFailure" in letter.error
    assert calls == []


def test_an_inner_middleware_that_does_not_proceed_is_the_one_that_is_named():
    def outer(context: Context, proceed: Proceed) -> None:
        proceed()

    def inner(context: Context, proceed: Proceed) -> None:
        """Does not proceed."""

    stage = stage_with(outer, retry=Retry(times=0), around=[inner])
    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert ".inner returned without" in letter.error


def test_proceeding_twice_is_refused_before_the_handler_runs_twice():
    def eager(context: Context, proceed: Proceed) -> None:
        proceed()
        proceed()

    calls: list[OrderPlaced] = []

    def handle(order: OrderPlaced):
        calls.append(order)
        return PaymentCharged()

    stage = stage_with(eager, handle, retry=Retry(times=0))
    result = stage.deliver(ORDER)

    assert isinstance(result.result, MiddlewareError)
    assert len(calls) == 1
    assert stage.types == []
    (letter,) = stage.dead_letters
    assert "eager called proceed() twice" in letter.error


def test_a_handler_that_failed_is_not_called_again_by_its_middleware():
    def stubborn(context: Context, proceed: Proceed) -> None:
        try:
            proceed()
        except GatewayDown:
            proceed()

    calls: list[OrderPlaced] = []

    def handle(order: OrderPlaced):
        calls.append(order)
        raise GatewayDown

    stage = stage_with(stubborn, handle, retry=Retry(times=0))
    result = stage.deliver(ORDER)

    assert isinstance(result.result, MiddlewareError)
    assert len(calls) == 1


def test_each_attempt_goes_through_the_middleware_and_an_event_that_is_done_does_not():
    notes: list[str] = []
    outcomes = [GatewayDown(), None]

    def handle(order: OrderPlaced):
        if error := outcomes.pop(0):
            raise error

    stage = stage_with(noting("service", notes), handle)

    stage.deliver(ORDER, id="e-1")
    stage.pass_time(MINUTE)
    stage.deliver(ORDER, id="e-1")

    assert notes == ["service begins", "service begins", "service ends"]


# -- declaring ----------------------------------------------------------------------------------------------------


def test_without_middleware_a_handler_is_called_directly():
    app = service("payment")

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None): ...

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced): ...

    @app.join(OrderConfirmed, PaymentCharged, on_timeout=give_up, around=[])
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged): ...

    on, join = app.subscriptions
    assert [type(reaction) for reaction in (on.reaction, join.reaction, join.on_timeout)] == [Reaction] * 3

    app.around(noting("service", []))

    on, join = app.subscriptions
    assert all(type(reaction) is not Reaction for reaction in (on.reaction, join.reaction, join.on_timeout))


def test_middleware_that_is_declared_after_the_tasks_were_made_reaches_them():
    notes: list[str] = []
    app = service("payment")
    app.on(OrderPlaced)(handler_that(lambda: notes.append("handler")))
    app.finalize()
    stage = Stage(app)

    app.around(noting("late", notes))
    stage.deliver(ORDER, id="e-1")
    assert notes == ["late begins", "handler", "late ends"]

    notes.clear()
    app.on(OrderPlaced, name="later")(handler_that(lambda: notes.append("later")))
    stage.deliver(ORDER, "payment.later", id="e-1")
    assert notes == ["late begins", "later", "late ends"]


@pytest.mark.parametrize("declared_twice", [1, 2])
def test_middleware_is_called_once_however_often_others_are_declared(declared_twice: int):
    notes: list[str] = []
    app = service("payment")
    app.on(OrderPlaced, around=[noting("own", notes)])(handler_that(lambda: None))
    for number in range(declared_twice):
        app.around(noting(f"service {number}", notes))

    Stage(app).deliver(ORDER)

    assert [note for note in notes if note == "own begins"] == ["own begins"]
    assert len(notes) == 2 * (declared_twice + 1)


class Surrounding:
    """An object that can be called is as good as a function."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def __call__(self, context: Context, proceed: Proceed) -> None:
        self.notes.append(context.handler)
        proceed()


def test_any_object_that_can_be_called_with_two_arguments_is_middleware():
    notes: list[str] = []

    def with_options(level: str, context: Context, proceed: Proceed, *more: object) -> None:
        notes.append(level)
        proceed()

    stage = stage_with(Surrounding(notes), around=[functools.partial(with_options, "info")])
    stage.deliver(ORDER)

    assert notes == ["payment.charge", "info"]


def yields(context: Context, proceed: Proceed):
    yield


async def yields_later(context: Context, proceed: Proceed):
    yield


def one(context: Context) -> None: ...


def three(context: Context, proceed: Proceed, more: str) -> None: ...


def keywords(*, context: Context, proceed: Proceed) -> None: ...


UNFIT = [
    pytest.param("logged", "it is no function", id="a text"),
    pytest.param(None, "it is no function", id="None"),
    pytest.param(yields, "it is a generator", id="a generator"),
    pytest.param(yields_later, "it is a generator", id="an async generator"),
    pytest.param(one, "too many positional arguments", id="one parameter"),
    pytest.param(three, "missing a required argument: 'more'", id="three parameters"),
    pytest.param(keywords, "too many positional arguments", id="keywords only"),
]


@pytest.mark.parametrize(("middleware", "reason"), UNFIT)
def test_a_function_that_cannot_be_middleware_is_refused_with_the_way_out(middleware: Any, reason: str):
    app = service("payment")

    with pytest.raises(DeclarationError, match="Write def logged\\(context: Context, proceed: Proceed\\)") as refused:
        app.around(middleware)

    assert reason in str(refused.value)
    assert "Service('payment')" in str(refused.value)
    # A service that refused it goes on without.
    app.on(OrderPlaced)(handler_that(lambda: None))
    assert Stage(app).deliver(ORDER).state == "SUCCESS"


@pytest.mark.parametrize(("middleware", "reason"), UNFIT)
@pytest.mark.parametrize("kind", ["on", "join"])
def test_it_is_refused_for_one_handler_as_well(middleware: Any, reason: str, kind: str):
    app = service("payment")

    def assign(confirmed: OrderConfirmed, charged: PaymentCharged): ...

    declare: Callable[[], object] = {
        "on": lambda: app.on(OrderPlaced, around=[middleware])(handler_that(lambda: None)),
        "join": lambda: app.join(OrderConfirmed, PaymentCharged, around=[middleware])(assign),
    }[kind]

    with pytest.raises(DeclarationError, match="cannot be middleware") as refused:
        declare()

    assert reason in str(refused.value)
    assert app.subscriptions == []


@pytest.mark.parametrize("kind", ["on", "join"])
def test_a_single_function_in_place_of_a_list_is_refused_with_the_way_out(kind: str):
    app = service("payment")
    middleware: Any = noting("own", [])

    def assign(confirmed: OrderConfirmed, charged: PaymentCharged): ...

    declare: Callable[[], object] = {
        "on": lambda: app.on(OrderPlaced, around=middleware)(handler_that(lambda: None)),
        "join": lambda: app.join(OrderConfirmed, PaymentCharged, around=middleware)(assign),
    }[kind]

    with pytest.raises(DeclarationError, match=r"a list of functions.*around=\[.*middleware\]"):
        declare()


def test_a_mistyped_option_is_named():
    app: Service = service("payment")

    with pytest.raises(DeclarationError, match="did you mean around"):
        app.on(OrderPlaced, arround=[])


def handler_that(act: Callable[[], Any]) -> Callable[[OrderPlaced], None]:
    def handle(order: OrderPlaced) -> None:
        act()

    return handle
