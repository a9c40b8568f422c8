"""The prefetch of a handler's queue on RabbitMQ follows the pace of its handler."""

from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from choreo.broker.rabbitmq.consuming import ConsumingChannel
from choreo.broker.rabbitmq.linger import ROOM
from choreo.declare.settings import USUAL_PREFETCH
from choreo.worker import prefetch
from choreo.worker.prefetch import MOST, Prefetch

QUEUE, OTHER = "payment.charge", "payment.refund"


class Tasks:
    """As much of kombu's consumer as consumes queues: what is not active yet gets a consumer with the current QoS."""

    def __init__(self, channel: Any) -> None:
        self.channel, self._active_tags, self.sizes = channel, dict[str, str](), dict[str, int]()

    def consume(self) -> None:
        for queue in (QUEUE, OTHER):
            if queue not in self._active_tags:
                self.channel.tags += 1
                self._active_tags[queue] = f"tag-{self.channel.tags}"
                self.sizes[queue] = self.channel.size


class Channel(ConsumingChannel):
    """Notes the requests of a channel, and answers each."""

    has_event_loop = True  # type: ignore[assignment]

    def __init__(self) -> None:
        self.connection = object()
        self.served, self.arrived = {QUEUE, OTHER}, []  # type: ignore[assignment]
        self.delivered, self.followed = Counter(), Counter()
        self.size, self.tags = USUAL_PREFETCH, 0
        self.kept: list[bool] = []

    def basic_qos(self, size: int, count: int, is_global: bool) -> None:  # noqa: ARG002
        self.size = count

    def end_consumer(self, consumer_tag: str, *, keep: bool) -> list[Any]:  # noqa: ARG002
        self.kept.append(keep)
        return []

    def go_on_with(self, arrived: Any, consumer_tag: str) -> None:
        pass


class Worker:
    """A worker whose handlers run at a given pace."""

    def __init__(self, multiplier: int = USUAL_PREFETCH) -> None:
        self.channel = Channel()
        self.tasks = Tasks(self.channel)
        self.tasks.consume()
        self.paused: set[str] = set()
        self.hub = Mock()
        runtime = SimpleNamespace(lane=SimpleNamespace(in_process=True))
        conf = SimpleNamespace(worker_prefetch_multiplier=multiplier)
        self.consumer: Any = SimpleNamespace(
            app=SimpleNamespace(runtime=runtime, conf=conf, amqp=SimpleNamespace(queues={})),
            task_consumer=self.tasks,
            initial_prefetch_count=multiplier,
            qos_global=False,
            hub=self.hub,
            paused=SimpleNamespace(holds=self.paused.__contains__),
            connection_errors=(),
        )
        Prefetch.make(self.consumer)
        self.look = self.hub.call_repeatedly.call_args.args[1] if self.hub.call_repeatedly.called else None

    def handles(self, rate: float, held: int = 0, queue: str = QUEUE, *, one_by_one: bool = False) -> dict[str, int]:
        """A second at this pace, with so many that wait. Returns the prefetch of each queue after the next look."""
        self.channel.delivered[queue] += int(rate)
        self.channel.followed[queue] += 0 if one_by_one else int(rate * 0.75)
        self.channel.arrived = [SimpleNamespace(queue=queue)] * held  # type: ignore[assignment]
        self.look.__self__._looked -= 1
        self.look()
        return self.tasks.sizes


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only `Worker.handles` moves. No delivery waits in the pool."""
    monkeypatch.setattr(prefetch, "monotonic", lambda: 0.0)
    monkeypatch.setattr(prefetch, "take_back", lambda *_: [])


def test_the_queue_of_a_quick_handler_gets_a_quarter_of_a_second_of_work() -> None:
    worker = Worker()

    assert worker.handles(400) == {QUEUE: 100, OTHER: USUAL_PREFETCH}
    assert worker.channel.kept == [True]
    assert worker.channel.size == USUAL_PREFETCH, "other queues begin with the usual one"


def test_no_prefetch_is_larger_than_the_most() -> None:
    assert Worker().handles(100_000)[QUEUE] == MOST


def test_a_handler_that_is_not_quick_keeps_the_usual_prefetch() -> None:
    worker = Worker()

    assert worker.handles(25, held=3)[QUEUE] == USUAL_PREFETCH
    assert worker.channel.kept == []


def test_a_queue_whose_events_come_one_by_one_is_left_alone() -> None:
    worker = Worker()

    assert worker.handles(90, one_by_one=True)[QUEUE] == USUAL_PREFETCH
    assert worker.channel.kept == []


def test_events_that_can_linger_get_the_room_for_it() -> None:
    worker = Worker()

    assert worker.handles(100, one_by_one=True)[QUEUE] == ROOM
    assert worker.handles(120, one_by_one=True)[QUEUE] == ROOM
    assert worker.channel.kept == [True]


def test_in_a_pool_of_threads_events_wait_for_a_thread() -> None:
    assert Worker().handles(80, held=3, one_by_one=True)[QUEUE] == 20


def test_a_consumer_that_a_pause_has_replaced_begins_with_the_usual_prefetch() -> None:
    worker = Worker()
    worker.handles(1000)
    del worker.tasks._active_tags[QUEUE]
    worker.tasks.consume()

    assert worker.handles(1000)[QUEUE] == 250
    assert worker.channel.kept == [True, True]


def test_what_has_become_slow_gives_back_what_it_holds() -> None:
    worker = Worker()
    worker.handles(1000)

    assert worker.handles(20, held=200)[QUEUE] == USUAL_PREFETCH
    assert worker.channel.kept == [True, False]


def test_a_queue_that_is_merely_empty_keeps_its_prefetch() -> None:
    worker = Worker()
    worker.handles(1000)

    assert worker.handles(0)[QUEUE] == 250


def test_a_paused_or_slowed_handler_is_left_alone() -> None:
    worker = Worker()
    worker.paused.add(QUEUE)

    assert worker.handles(1000)[QUEUE] == USUAL_PREFETCH


def test_a_prefetch_that_was_chosen_is_kept() -> None:
    assert Worker(multiplier=1).look is None


def test_after_a_new_connection_the_old_follower_ends() -> None:
    worker = Worker()
    worker.consumer.task_consumer = None

    worker.look()

    worker.hub.call_repeatedly.return_value.cancel.assert_called_once()
