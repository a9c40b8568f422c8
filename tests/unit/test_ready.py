"""Awaiting what publishing returns: in no form does it raise, for the event is out, and may not be announced again."""

import asyncio
import copy
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from choreo import Announcement, Envelope, Service
from choreo.announcement import Count
from choreo.events import ready
from choreo.testing import Recorder, recorder
from tests.unit.events import OrderPlaced, envelope
from tests.unit.stage import service

EVENT = OrderPlaced(customer_id="alice")


@pytest.fixture
def app() -> Service:
    return service("payment")


@pytest.fixture
def told(app: Service) -> Iterator[Recorder]:
    with recorder(app) as told:
        yield told


pytestmark = pytest.mark.filterwarnings("ignore::choreo.BlockedLoopWarning")


@pytest.fixture(autouse=True)
def _not_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "_is_told", False)


Publish = Callable[[], Any]


async def awaited(publish: Publish) -> Any:
    """Another function in between: only what calls `publish` itself is seen to await it."""
    return await publish()


async def gathered(publish: Publish) -> Any:
    return (await asyncio.gather(publish(), asyncio.sleep(0)))[0]


async def made_a_task(publish: Publish) -> Any:
    return await asyncio.create_task(publish(), name="announce")


async def made_a_task_of_the_loop(publish: Publish) -> Any:
    return await asyncio.get_running_loop().create_task(publish())


async def made_a_task_of_a_group(publish: Publish) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(publish())
    return task.result()


async def made_a_future(publish: Publish) -> Any:
    return await asyncio.ensure_future(publish())


async def waited_for(publish: Publish) -> Any:
    return await asyncio.wait_for(publish(), 5)


async def shielded(publish: Publish) -> Any:
    return await asyncio.shield(publish())


async def taken_as_completed(publish: Publish) -> Any:
    (done,) = asyncio.as_completed([publish()])
    return await done


async def given_to_another_loop(publish: Publish) -> Any:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(publish(), loop))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


FORMS = [
    awaited, gathered, made_a_task, made_a_task_of_the_loop, made_a_task_of_a_group, made_a_future, waited_for,
    shielded, taken_as_completed, given_to_another_loop,
]  # fmt: skip
CALLS: dict[type, Callable[[Service], Any]] = {
    Envelope: lambda app: app.publish(EVENT, "ORD-1"),
    Announcement: lambda app: app.publish(EVENT, "ORD-1", delay=5),
    Count: lambda app: app.publish_many([EVENT]),
}


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_in_every_form_the_event_is_announced_once_and_the_result_comes_back(
    app: Service, told: Recorder, form: Callable[[Publish], Any], kind: type, debug: bool
) -> None:
    result = asyncio.run(form(lambda: CALLS[kind](app)), debug=debug)

    assert type(result) is kind
    assert len(told.events) == 1


@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.__name__)
def test_a_program_may_be_nothing_but_publishing(app: Service, told: Recorder, kind: type) -> None:
    assert type(asyncio.run(CALLS[kind](app))) is kind
    assert len(told.events) == 1


def test_a_task_that_is_cancelled_before_it_begins_is_cancelled(app: Service, told: Recorder) -> None:
    async def announce() -> bool:
        task = asyncio.create_task(app.publish(EVENT))
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(announce())
    assert len(told.events) == 1


def test_the_log_says_once_what_to_write(app: Service, told: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    async def announce() -> None:
        for form in FORMS:
            await form(lambda: app.publish(EVENT))

    with caplog.at_level(logging.WARNING):
        asyncio.run(announce())

    (line,) = [record.getMessage() for record in caplog.records if record.name == ready.__name__]
    assert line.endswith("Write: await app.apublish(event)")


def test_publishing_in_a_thread_as_the_log_says_is_no_await_of_the_result(
    app: Service, told: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async def announce() -> list[Envelope]:
        return await asyncio.gather(*(asyncio.to_thread(app.publish, EVENT) for _ in range(3)))

    with caplog.at_level(logging.WARNING):
        announced = asyncio.run(announce())

    assert {event.id for event in told.events} == {event.id for event in announced}
    assert not [record for record in caplog.records if record.name == ready.__name__]


def test_an_envelope_is_still_plain_data() -> None:
    one = envelope(EVENT)

    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert not hasattr(one, "__dict__")
    assert pickle.loads(pickle.dumps(Count(3))) == 3
