"""`async def` handlers, joins, middleware and dead-letter handlers, on a stage."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from choreo import (
    AsyncProceed,
    Context,
    DeclarationError,
    HandlerEndedError,
    PermanentFailure,
    Proceed,
    Reason,
    Retry,
    RetryLater,
)
from choreo.declare.context import current
from choreo.errors import InvalidEventError, MiddlewareError
from choreo.testing import context, stage
from tests.unit.events import OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, PaymentFailed
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)


def test_it_announces_what_it_returns_and_what_it_publishes():
    app = service("payment")

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced, context: Context):
        await asyncio.sleep(0)
        app.publish(PaymentFailed(reason="first"))
        await asyncio.gather(again(context), again(context))
        return PaymentCharged(amount_cents=order.total_cents)

    async def again(context: Context) -> None:
        await asyncio.sleep(0)
        assert current() is context

    platform = Stage(app)
    platform.publish(ORDER)
    platform.run()

    assert platform.types == ["order.placed", "payment.failed", "payment.charged"]


def test_an_async_generator_announces_what_it_yields():
    app = service("payment")

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> AsyncIterator[PaymentCharged | PaymentFailed]:
        yield PaymentCharged(amount_cents=1)
        await asyncio.sleep(0)
        yield PaymentFailed(reason="too late")

    platform = Stage(app)
    platform.publish(ORDER)
    platform.run()

    assert platform.types == ["order.placed", "payment.charged", "payment.failed"]


def test_its_failures_are_retried_and_end_in_a_dead_letter():
    app = service("payment")
    attempts: list[int] = []

    @app.on(OrderPlaced, retry=Retry(times=1, first=1, cap=1))
    async def charge(order: OrderPlaced, context: Context) -> None:
        await asyncio.sleep(0)
        attempts.append(context.attempt)
        raise ConnectionError("the gateway is away")

    platform = stage(app)
    platform.publish(ORDER)
    platform.advance(minutes=1)

    (letter,) = platform.dead_letters
    assert (attempts, letter.reason, letter.error) == (
        [1, 2],
        Reason.EXHAUSTED,
        "ConnectionError: the gateway is away",
    )
    assert "in charge" in letter.traceback
    assert "event_loop.py" not in letter.traceback


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
def test_what_would_end_the_loop_is_a_failure_of_the_handler_alone(error: BaseException):
    app = service("payment")
    calls: list[str] = []

    @app.on(OrderPlaced, retry=Retry(times=0))
    async def charge(order: OrderPlaced) -> None:
        calls.append(order.customer_id)
        if order.customer_id == "alice":
            raise error

    platform = stage(app)
    platform.publish(ORDER)
    try:
        platform.run()
    except KeyboardInterrupt:
        assert isinstance(error, KeyboardInterrupt)  # somebody wants the test to end
    platform.publish(OrderPlaced(customer_id="bob", total_cents=1))
    platform.run()

    (letter,) = platform.dead_letters
    assert letter.error.startswith(type(error).__name__)
    assert calls == ["alice", "bob"]


def test_one_that_returns_something_else_fails_and_the_error_says_what():
    app = service("payment")

    @app.on(OrderPlaced, retry=Retry(times=0))
    async def charge(order: OrderPlaced):
        return 17

    platform = stage(app)
    platform.publish(ORDER)
    platform.run()

    assert "returned 17" in platform.dead_letters[0].error
    assert isinstance(platform.deliveries[0].error, InvalidEventError)


def test_a_decorator_that_hides_that_a_function_is_async_does_no_harm():
    app = service("payment")

    def traced(function: Any) -> Any:
        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            return function(*args, **options)

        return wrapper

    @app.on(OrderPlaced)
    @traced
    async def charge(order: OrderPlaced) -> PaymentCharged:
        await asyncio.sleep(0)
        return PaymentCharged(amount_cents=1)

    platform = Stage(app)
    platform.publish(ORDER)
    platform.run()

    assert platform.types == ["order.placed", "payment.charged"]


def test_a_join_and_its_on_timeout_may_be_async():
    app = service("driver")

    async def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> OrderRejected:
        await asyncio.sleep(0)
        return OrderRejected(reason="too late")

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=5), on_timeout=give_up)
    async def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> PaymentFailed:
        await asyncio.sleep(0)
        return PaymentFailed(reason="both are here")

    platform = stage(app)
    platform.publish(OrderConfirmed(), subject="A")
    platform.publish(PaymentCharged(amount_cents=1), subject="A")
    platform.publish(OrderConfirmed(), subject="B")
    platform.advance(minutes=6)

    assert [one.subject for one in platform.events if one.type == "payment.failed"] == ["A"]
    assert [one.subject for one in platform.events if one.type == "order.rejected"] == ["B"]


def test_an_undo_may_be_async():
    app = service("payment")
    undone: list[int] = []

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged(amount_cents=7)

    @app.on(OrderRejected, undoes=charge)
    async def refund(charged: PaymentCharged) -> None:
        await asyncio.sleep(0)
        undone.append(charged.amount_cents)

    platform = stage(app)
    platform.publish(ORDER, subject="A")
    platform.publish(OrderRejected(reason="closed"), subject="A")
    platform.run()

    assert undone == [7]


# -- middleware ---------------------------------------------------------------------------------------------------


def notes_of(*around: Any, **options: Any) -> list[str]:
    """What a handler and its middleware note: the middleware appends to `NOTES`."""
    app = service("payment")
    NOTES.clear()

    @app.on(OrderPlaced, around=list(around), retry=Retry(times=0), **options)
    async def charge(order: OrderPlaced) -> PaymentCharged:
        NOTES.append("handler")
        await asyncio.sleep(0)
        return PaymentCharged(amount_cents=1)

    platform = Stage(app)
    platform.publish(ORDER)
    platform.run()
    return [*NOTES, *platform.types[1:], *(letter.error for letter in platform.dead_letters)]


NOTES: list[str] = []
WHERE: ContextVar[str] = ContextVar("where", default="nowhere")


def plain(context: Context, proceed: Proceed) -> None:
    NOTES.append("plain begins")
    announced = proceed()
    NOTES.append(f"plain ends with {len(announced)}")


async def awaiting(context: Context, proceed: AsyncProceed) -> None:
    NOTES.append("awaiting begins")
    announced = await proceed()
    NOTES.append(f"awaiting ends with {len(announced)}")


async def forgetful(context: Context, proceed: AsyncProceed) -> None:
    pass


async def twice(context: Context, proceed: AsyncProceed) -> None:
    await proceed()
    await proceed()


class Object:
    async def __call__(self, context: Context, proceed: AsyncProceed) -> None:
        await awaiting(context, proceed)


def test_plain_middleware_works_around_an_async_handler():
    assert notes_of(plain) == ["plain begins", "handler", "plain ends with 1", "payment.charged"]


@pytest.mark.parametrize("middleware", [awaiting, Object()])
def test_async_middleware_awaits_the_handler(middleware: Any):
    assert notes_of(middleware) == ["awaiting begins", "handler", "awaiting ends with 1", "payment.charged"]


def test_plain_middleware_may_be_outside_of_async_middleware():
    noted = notes_of(plain, awaiting)

    assert noted == [
        "plain begins",
        "awaiting begins",
        "handler",
        "awaiting ends with 1",
        "plain ends with 1",
        "payment.charged",
    ]


def test_async_middleware_must_await_proceed_and_once():
    (forgotten,) = notes_of(forgetful)
    ran, doubled = notes_of(twice)

    assert "returned without awaiting proceed()" in forgotten
    assert (ran, "called proceed() twice" in doubled) == ("handler", True)


def test_async_middleware_around_a_plain_handler_is_refused_with_the_way_out():
    app = service("payment")

    with pytest.raises(DeclarationError, match="Write the middleware as `def`, which works around both kinds"):

        @app.on(OrderPlaced, around=[awaiting])
        def charge(order: OrderPlaced) -> None: ...

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced) -> None: ...

    with pytest.raises(DeclarationError, match=r"awaiting is `async def` .*confirm, which is a plain"):
        app.around(awaiting)
    app.around(plain)  # the refused one has left nothing behind


def test_async_middleware_outside_of_plain_middleware_is_refused():
    app = service("payment")

    with pytest.raises(DeclarationError, match="plain, which is plain middleware"):

        @app.on(OrderPlaced, around=[awaiting, plain])
        async def charge(order: OrderPlaced) -> None: ...


def test_a_story_needs_no_function_so_async_middleware_does_not_mind_it():
    app = service("payment")
    app.story("order", begins=OrderPlaced, ends=[OrderConfirmed], within=timedelta(hours=1))

    app.around(awaiting)


def test_what_plain_middleware_sets_in_the_context_is_seen_by_the_coroutine():
    def inside(context: Context, proceed: Proceed) -> None:
        token = WHERE.set("inside")
        try:
            proceed()
        finally:
            WHERE.reset(token)

    async def tells(context: Context, proceed: AsyncProceed) -> None:
        NOTES.append(WHERE.get())
        await proceed()

    assert notes_of(inside, tells)[0] == "inside"


def test_an_error_in_words_for_middleware_is_a_middleware_error():
    assert issubclass(MiddlewareError, Exception)
    (error,) = notes_of(forgetful)
    assert error.startswith("MiddlewareError: ")


# -- tests of users ------------------------------------------------------------------------------------------------


def test_a_stage_runs_async_handlers_in_a_test_that_is_async_itself():
    app = service("payment")
    threads: set[int] = set()

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> PaymentCharged:
        await asyncio.sleep(0)
        threads.add(threading.get_ident())
        return PaymentCharged(amount_cents=1)

    async def test() -> list[Any]:
        platform = stage(app)
        platform.publish(ORDER)
        platform.run()
        return list(platform.announced(PaymentCharged))

    assert len(asyncio.run(test())) == 1
    assert threading.get_ident() not in threads


def test_a_handler_can_be_awaited_as_a_function_with_a_context_of_its_own():
    app = service("payment")

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
        await asyncio.sleep(0)
        if context.attempt > 1:
            raise PermanentFailure(context.subject)
        raise RetryLater(1)

    with pytest.raises(RetryLater):
        asyncio.run(charge(ORDER, context(subject="ORD-1")))
    with pytest.raises(PermanentFailure, match="ORD-1"):
        asyncio.run(charge(ORDER, context(subject="ORD-1", attempt=2)))


def test_a_task_that_the_handler_does_not_await_is_cancelled_named_and_announces_nothing(
    caplog: pytest.LogCaptureFixture,
):
    app = service("payment")
    ended: list[str] = []
    done = threading.Event()

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced, context: Context) -> None:
        asyncio.create_task(forgotten(context))  # noqa: RUF006 - that is the mistake
        await asyncio.sleep(0)

    async def forgotten(context: Context) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            try:
                context.announce(PaymentCharged(amount_cents=1))
            except HandlerEndedError:
                ended.append("ended")
            done.set()
            raise

    platform = Stage(app)
    platform.publish(ORDER)
    with caplog.at_level(logging.WARNING):
        platform.run()

    assert done.wait(10)
    assert ended == ["cancelled", "ended"]
    assert platform.types == ["order.placed"]
    assert "payment.charge has ended, and left 1 task(s) behind, which are cancelled: " in caplog.text
    assert "forgotten (Task-" in caplog.text
