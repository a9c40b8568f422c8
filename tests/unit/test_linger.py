"""Deliveries that come in quick succession wait for each other for a moment; others never do."""

from typing import Any

import pytest

from choreo.broker.rabbitmq import linger
from choreo.broker.rabbitmq.linger import ENOUGH, FIRST_PAUSE, MOST_PAUSE, QUICK, ROOM, WINDOW, Linger
from tests.unit.test_rabbitmq_taking import TAG, Loop, Wire, content_of, delivered, event


class Time:
    """The time, as the tests say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(linger, "monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def come(one: Linger, time: Time, count: int, every: float) -> None:
    for _ in range(count):
        time.now += every
        one.arrived(1)


@pytest.mark.parametrize(("every", "pays"), [(WINDOW * 0.9, True), (WINDOW * 1.5, False), (0.05, False)])
def test_only_what_comes_in_quick_succession_waits(time: Time, every: float, pays: bool) -> None:
    one = Linger()

    come(one, time, QUICK, every)

    assert one.pays(1) is pays
    assert not one.pays(0)


def test_the_first_deliveries_of_all_do_not_wait(time: Time) -> None:
    one = Linger()
    come(one, time, QUICK - 1, 0.001)

    assert not one.pays(1)


def test_those_that_are_enough_do_not_wait(time: Time) -> None:
    one = Linger()
    one.arrived(100)

    assert one.pays(ENOUGH - 1)
    assert not one.pays(ENOUGH)


def test_after_a_pause_nothing_waits(time: Time) -> None:
    one = Linger()
    come(one, time, 50, 0.001)
    time.now += 1

    one.arrived(1)

    assert not one.pays(1)


def pause_of(one: Linger, time: Time) -> float:
    """The seconds until a wait pays again, if events come all the time."""
    began = time.now
    while not one.pays(1):
        come(one, time, 1, 0.001)
    return time.now - began


def test_waits_in_vain_become_rare_until_one_pays(time: Time) -> None:
    one = Linger()
    come(one, time, QUICK, 0.001)
    pauses = []
    for _ in range(8):
        one.waited(in_vain=True)
        pauses.append(round(pause_of(one, time), 2))

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, MOST_PAUSE, MOST_PAUSE, MOST_PAUSE]

    one.waited(in_vain=False)
    assert one.pays(1)
    one.waited(in_vain=True)
    assert round(pause_of(one, time), 2) == FIRST_PAUSE


class Timed(Loop):
    """A loop with timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[tuple[float, Any]] = []

    def call_later(self, seconds: float, callback: Any) -> None:
        self.timers.append((seconds, callback))

    def pass_time(self) -> None:
        due, self.timers = self.timers, []
        for _, callback in due:
            callback()


class Quick(Wire):
    """A connection whose last deliveries came in quick succession. ``coming`` is what its socket gives next."""

    def __init__(self) -> None:
        super().__init__()
        self.loop, self.coming, self.tag = Timed(), b"", 0
        self.connection._loop = self.loop
        self.transport.sock = self
        self.transport.fill = self._fill
        self.transport.write_lock = self.transport.having_timeout(0)
        self.loop.add_reader(self, self.connection.on_readable)
        self.connection._linger.arrived(QUICK)

    def _fill(self) -> None:
        if not self.coming:
            raise TimeoutError
        raw, self.coming = self.coming, b""
        self.comes(raw)

    def send(self, count: int = 1) -> None:
        """RabbitMQ sends so many; the loop reads them, if it reads this socket."""
        for _ in range(count):
            self.tag += 1
            self.coming += delivered(self.tag, content_of(event()))
        if self in self.loop.readers:
            self.loop.readers[self]()

    @property
    def tags(self) -> list[int]:
        return [one.delivery_info["delivery_tag"] for one in self.got]


def test_what_comes_within_the_window_is_delivered_together() -> None:
    wire = Quick()

    wire.send()
    wire.send()
    assert wire.tags == []
    assert [seconds for seconds, _ in wire.loop.timers] == [WINDOW]
    wire.loop.pass_time()

    assert wire.tags == [1, 2]
    assert wire.hooks.seen[0] == (1, [2])
    wire.send()
    assert wire.tags == [1, 2], "it paid, so the next one waits as well"


def test_the_connection_is_read_again_and_a_wait_in_vain_ends_the_waiting() -> None:
    wire = Quick()
    wire.send()

    wire.loop.pass_time()

    assert wire.tags == [1]
    wire.send()
    assert wire.tags == [1, 2]


def test_enough_together_do_not_wait() -> None:
    wire = Quick()

    wire.send(ENOUGH)

    assert wire.tags == list(range(1, ENOUGH + 1))
    assert not wire.loop.timers


@pytest.mark.parametrize(("prefetch", "waits"), [(ROOM - 1, False), (ROOM, True), (0, True)])
def test_nothing_waits_if_rabbitmq_may_not_send_much_more(prefetch: int, waits: bool) -> None:
    wire = Quick()
    wire.channel._prefetches[TAG] = prefetch

    wire.send()

    assert bool(wire.loop.timers) is waits
    assert wire.tags == ([] if waits else [1])


def test_a_wait_that_outlives_its_connection_does_nothing() -> None:
    wire = Quick()
    wire.send()
    wire.connection._bell.close()
    wire.connection._bell = None

    wire.loop.pass_time()

    assert wire.tags == []
    assert wire not in wire.loop.readers


def test_a_lost_connection_is_noticed_after_the_wait() -> None:
    wire = Quick()
    wire.send()
    wire.transport.connected = False

    with pytest.raises(wire.connection.recoverable_connection_errors):
        wire.loop.pass_time()
