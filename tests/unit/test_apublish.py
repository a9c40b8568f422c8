"""Publishing from coroutines: `apublish` and `apublish_many` do what their twins do; `publish` cannot be awaited."""

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from choreo import (
    AwaitError,
    BlockedLoopWarning,
    Context,
    DeclarationError,
    InvalidEventError,
    PublishError,
    Retry,
    Service,
    StoreError,
    UndeclaredEventWarning,
    unconfirmed,
)
from choreo.testing import Recorder, recorder, stage
from tests.unit.events import OrderPlaced, OrderRejected, PaymentCharged
from tests.unit.stage import service
from tests.waiting import DEADLINE

ORDER = OrderPlaced(customer_id="alice")


@pytest.fixture
def app() -> Service:
    return service("payment")


@pytest.fixture
def told(app: Service) -> Iterator[Recorder]:
    with recorder(app) as told:
        yield told


# -- outside of handlers ----------------------------------------------------------------------------------------------


def test_an_event_is_announced_and_its_envelope_comes_back(app: Service, told: Recorder) -> None:
    envelope = asyncio.run(app.apublish(ORDER, subject="ORD-1", meta={"tenant": "acme"}))

    assert told.events == [envelope]
    assert (envelope.subject, envelope.extensions) == ("ORD-1", {"tenant": "acme"})


def test_an_event_can_follow_from_another_one(app: Service, told: Recorder) -> None:
    async def announce() -> None:
        cause = await app.apublish(ORDER, subject="ORD-1")
        event = await app.apublish(PaymentCharged(amount_cents=5), caused_by=cause)
        assert (event.causation_id, event.subject) == (cause.id, "ORD-1")

    asyncio.run(announce())


def test_a_delayed_event_is_kept_until_it_is_called_off(app: Service, told: Recorder) -> None:
    async def announce() -> None:
        kept = await app.apublish(ORDER, "ORD-1", delay=timedelta(days=1))
        dropped = await app.apublish(ORDER, "ORD-2", delay=60)
        assert told.events == [kept.envelope, dropped.envelope]
        assert await asyncio.to_thread(dropped.cancel)
        assert told.events == [kept.envelope]

    asyncio.run(announce())


def test_many_events_are_announced_and_counted(app: Service, told: Recorder) -> None:
    count = asyncio.run(app.apublish_many(ORDER.about(f"ORD-{number}") for number in range(1200)))

    assert count == 1200
    assert [event.subject for event in told.events] == [f"ORD-{number}" for number in range(1200)]


def test_many_events_may_come_from_an_async_generator(app: Service, told: Recorder) -> None:
    async def orders() -> AsyncIterator[OrderPlaced]:
        for number in range(700):
            await asyncio.sleep(0)
            yield ORDER.about(f"ORD-{number}")

    assert asyncio.run(app.apublish_many(orders())) == 700
    assert len(told.events) == 700


def test_a_failure_says_how_many_were_announced_before(app: Service, told: Recorder) -> None:
    def orders() -> Iterator[OrderPlaced]:
        for number in range(600):
            if number == 500:
                told.fails = PublishError("no connection")
            yield ORDER.about(f"ORD-{number}")

    with pytest.raises(PublishError, match="no connection") as caught:
        asyncio.run(app.apublish_many(orders()))

    assert caught.value.before == 500
    assert unconfirmed(caught.value) == caught.value.unconfirmed
    assert len(caught.value.unconfirmed) == 100


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda app: app.apublish(OrderPlaced), DeclarationError),
        (lambda app: app.apublish(ORDER, meta={"Tenant!": "acme"}), InvalidEventError),
        (lambda app: app.apublish(ORDER, delay=-1), DeclarationError),
        (lambda app: app.apublish_many(ORDER), DeclarationError),
    ],
    ids=["no event", "meta", "delay", "one event"],
)
def test_what_publish_refuses_is_refused(app: Service, told: Recorder, call: Any, kind: type[Exception]) -> None:
    with pytest.raises((kind, ValueError)):
        asyncio.run(call(app))
    assert told.events == []


def test_a_store_that_is_away_is_told(app: Service, told: Recorder) -> None:
    told.fails = StoreError("no connection")

    with pytest.raises(StoreError, match="no connection"):
        asyncio.run(app.apublish(ORDER, delay=60))


def test_an_undeclared_event_is_a_warning_at_the_line_of_the_await() -> None:
    app = service("payment", announces=[PaymentCharged])
    for call in (lambda: app.apublish(ORDER), lambda: app.apublish(ORDER, delay=5)):
        app._warned.clear()

        async def announce(call: Any = call) -> None:
            await call()

        with recorder(app), pytest.warns(UndeclaredEventWarning, match=r"order\.placed") as seen:
            asyncio.run(announce())
        assert [warning.filename for warning in seen] == [__file__]


def test_other_coroutines_run_while_many_events_are_made(app: Service, told: Recorder) -> None:
    async def announce() -> int:
        announcing = asyncio.create_task(app.apublish_many([ORDER] * 500))
        turns = 0
        while not announcing.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(announce()) >= 15


def test_a_coroutine_that_waits_for_the_store_and_is_cancelled_calls_its_event_off(
    app: Service, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    tended = app.runtime.store.tended
    monkeypatch.setattr(
        app.runtime.store, "tended", lambda name: begun.set() or (go_on.wait(DEADLINE) and tended(name)), raising=False
    )

    async def announce() -> None:
        announcing = asyncio.create_task(app.apublish(ORDER, delay=60))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        announcing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await announcing
        assert len(told.events) == 1
        go_on.set()
        while told.events:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(announce(), DEADLINE))


# -- inside a handler -------------------------------------------------------------------------------------------------


def test_in_a_handler_the_event_leaves_with_its_success() -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
        async def announce() -> None:
            await asyncio.gather(app.apublish(PaymentCharged(amount_cents=1)), app.apublish_many([PaymentCharged()]))
            later = await app.apublish(PaymentCharged(amount_cents=3), delay=60)
            dropped = await app.apublish(PaymentCharged(amount_cents=4), delay=60)
            assert dropped.cancel()
            assert later.envelope in context.leaving

        asyncio.run(announce())
        assert len(context.announced) == 4
        return PaymentCharged(amount_cents=5)

    platform = stage(app)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()
    assert [event.amount_cents for event in platform.announced(PaymentCharged, "ORD-1")] == [1, 0, 5]

    platform.advance(minutes=1)
    assert len(platform.announced(PaymentCharged, "ORD-1")) == 4


def test_in_an_async_handler_the_event_leaves_with_its_success() -> None:
    app, other = service("payment"), service("audit")
    attempts: list[int] = []

    @app.on(OrderPlaced, retry=Retry(times=1, first=0.1, cap=0.1))
    async def charge(order: OrderPlaced) -> PaymentCharged:
        await app.apublish(PaymentCharged(amount_cents=1))
        app.publish(PaymentCharged(amount_cents=2))
        await other.apublish(OrderRejected(), subject="AUDIT-1")
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("the bank is away")
        return PaymentCharged(amount_cents=3)

    with warnings.catch_warnings():
        warnings.simplefilter("error", BlockedLoopWarning)
        with stage(app, other) as platform:
            platform.publish(ORDER, subject="ORD-1")
            platform.advance(minutes=1)

    assert [event.amount_cents for event in platform.announced(PaymentCharged, "ORD-1")] == [1, 2, 3]
    # That of another service is none of what the handler announces.
    assert len(platform.announced(OrderRejected, "AUDIT-1")) == 2


def test_a_task_that_outlives_its_handler_announces_at_once_and_in_its_story() -> None:
    app = service("payment")
    loop = asyncio.new_event_loop()

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        async def announce() -> None:
            await asyncio.sleep(0)
            await app.apublish(PaymentCharged(amount_cents=1))

        tasks.append(loop.create_task(announce()))

    tasks: list[Any] = []
    with stage(app) as platform:
        placed = platform.publish(ORDER, subject="ORD-1")
        platform.run()
        loop.run_until_complete(tasks[0])
        loop.close()

        charged = platform.announced(PaymentCharged, "ORD-1").one()
    assert charged.meta.correlation_id == placed.id


# -- publish beside an event loop -------------------------------------------------------------------------------------


async def awaits_publish(app: Service) -> None:
    await app.publish(ORDER, "ORD-1")  # type: ignore[misc]


async def awaits_publish_with_options(app: Service) -> None:
    await app.publish(ORDER, delay=5, meta={"tenant": "acme"})  # type: ignore[misc]


async def awaits_publish_with_stars(app: Service) -> None:
    args, options = ["ORD-1"], {"meta": None}
    await app.publish(ORDER, *args, **options)  # type: ignore[misc]


async def awaits_publish_many(app: Service) -> None:
    await app.publish_many([ORDER])  # type: ignore[misc]


async def awaits_a_bound_method(app: Service) -> None:
    publish = app.publish
    found = [await publish(ORDER) for _ in range(2)]  # type: ignore[misc]
    assert not found


@pytest.mark.parametrize(
    "call",
    [
        awaits_publish,
        awaits_publish_with_options,
        awaits_publish_with_stars,
        awaits_publish_many,
        awaits_a_bound_method,
    ],
    ids=lambda call: call.__name__,
)
@pytest.mark.parametrize("times", [1, 50], ids=["", "specialised by the interpreter"])
def test_an_await_of_publish_is_refused_before_anything_is_announced(
    app: Service, told: Recorder, call: Any, times: int
) -> None:
    for _ in range(times):
        with pytest.raises(AwaitError, match=r"nothing was announced\. Write: await app\.apublish(_many)?\(\.\.\.\)"):
            asyncio.run(call(app))
    assert told.events == []


async def awaits_something_else(app: Service) -> None:
    envelope = app.publish(ORDER)
    await asyncio.sleep(0)
    assert envelope.id


async def awaits_with_the_result(app: Service) -> None:
    await asyncio.sleep(0, app.publish(ORDER))


async def returns_the_result(app: Service) -> Any:
    return app.publish(ORDER)


async def mixes_both_in_one_expression(app: Service) -> Any:
    return {app.publish(ORDER): await asyncio.sleep(0)}


async def iterates(app: Service) -> None:
    async def orders() -> AsyncIterator[Any]:
        yield app.publish(ORDER)

    async for envelope in orders():
        assert envelope.id


@pytest.mark.filterwarnings("ignore::choreo.BlockedLoopWarning")
@pytest.mark.parametrize(
    "call",
    [awaits_something_else, awaits_with_the_result, returns_the_result, mixes_both_in_one_expression, iterates],
    ids=lambda call: call.__name__,
)
def test_what_is_no_await_of_publish_is_not_refused(app: Service, told: Recorder, call: Any) -> None:
    for _ in range(20):
        asyncio.run(call(app))
    assert len(told.events) == 20


def test_an_await_of_publish_is_refused_in_a_handler_and_is_no_reason_to_try_again() -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        asyncio.run(awaits_publish(app))
        return PaymentCharged()

    platform = stage(app)
    platform.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    platform.run()

    [letter] = platform.dead_letters
    assert "await app.apublish(...)" in letter.error
    assert letter.attempts == 1


def test_an_async_handler_that_awaits_publish_has_failed_for_good() -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> PaymentCharged:
        await awaits_publish(app)
        return PaymentCharged()

    platform = stage(app)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()

    [letter] = platform.dead_letters
    assert "await app.apublish(...)" in letter.error


def test_a_call_that_would_block_an_event_loop_is_a_warning_at_its_line_and_leaves(
    app: Service, told: Recorder
) -> None:
    async def announce() -> None:
        app.publish(ORDER, "ORD-1")
        app.publish_many([ORDER])

    with pytest.warns(BlockedLoopWarning, match=r"await app\.apublish") as seen:
        asyncio.run(announce())

    assert [warning.filename for warning in seen] == [__file__, __file__]
    assert len(told.events) == 2


def test_the_warning_can_be_made_an_error_and_nothing_is_announced(app: Service, told: Recorder) -> None:
    async def announce() -> None:
        app.publish(ORDER, "ORD-1")

    with warnings.catch_warnings():
        warnings.simplefilter("error", BlockedLoopWarning)
        with pytest.raises(BlockedLoopWarning):
            asyncio.run(announce())
    assert told.events == []


def test_publishing_outside_of_an_event_loop_is_no_reason_for_a_warning(app: Service, told: Recorder) -> None:
    async def announce() -> None:
        await asyncio.to_thread(app.publish, ORDER)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(announce())
        app.publish(ORDER)
    assert len(told.events) == 2


def test_in_a_handler_with_an_event_loop_publish_blocks_nothing_and_is_no_reason_for_a_warning() -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        async def announce() -> None:
            app.publish(PaymentCharged(amount_cents=1))

        asyncio.run(announce())
        return PaymentCharged(amount_cents=2)

    platform = stage(app)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        platform.publish(ORDER, subject="ORD-1")
        platform.run()
    assert [event.amount_cents for event in platform.announced(PaymentCharged)] == [1, 2]


# -- what a cancelled await leaves behind -----------------------------------------------------------------------------


def test_the_events_that_may_be_out_are_found_behind_a_timeout() -> None:
    from choreo.errors import note_unconfirmed
    from tests.unit.events import envelope

    event = envelope(ORDER)

    async def cancelled() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            note_unconfirmed(error, [event])
            raise

    async def bounded() -> None:
        async with asyncio.timeout(0.001):
            await cancelled()

    async def waited_for() -> None:
        await asyncio.wait_for(cancelled(), 0.001)

    for form in (bounded, waited_for):
        with pytest.raises(TimeoutError) as caught:
            asyncio.run(form())
        assert unconfirmed(caught.value) == (event,)
    assert unconfirmed(TimeoutError()) == ()
