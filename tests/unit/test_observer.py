"""The observer: the map of what the programs have told the store."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.observe.map import Announcer, IdleQueue, Map
from choreo.observe.observer import Observer
from choreo.store.memory import MemoryStore
from choreo.store.pauses import Pause
from choreo.store.presence import Program
from tests.unit.stage import service
from tests.unit.test_map import ANALYTICS, ORDER, PAYMENT


class City:
    """A store, and a broker that knows how much waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.waiting: Mapping[str, int] | Exception = {}
        self.app = service("command_line")
        self.app.runtime.store = self.store
        self.app.runtime.waiting_in = self.wait

    def wait(self, queues: Sequence[str]) -> Mapping[str, int]:
        if isinstance(self.waiting, Exception):
            raise self.waiting
        return {queue: number for queue, number in self.waiting.items() if queue in queues}

    def lives(self, told: ServiceDescription, name: str = "a/1", **about: Any) -> Program:
        """A worker of this service, which consumes all its queues."""
        queues = tuple(handler.name for handler in told.handlers)
        program = Program(
            f"{told.service}@{name}",
            f"{told.service}@{name.partition('/')[0]}",
            **{"pool": "solo", "queues": queues, "digest": told.digest, "since": self.now, **about},
        )
        self.store.register([*queues, told.service])
        bindings = [(handler.name, pattern) for handler in told.handlers for pattern in handler.hears]
        self.store.declare(told.service, program.name, bindings, 60)
        self.store.report(told.service, program, told.to_json(), 60)
        return program

    @property
    def map(self) -> Map:
        observer = self.app.observe
        assert isinstance(observer, Observer)
        return observer.map()


@pytest.fixture
def city() -> City:
    return City()


def test_nobody_has_told_anything(city: City):
    assert city.map == Map((), (), ())


def test_the_map_is_what_the_live_workers_have_told(city: City):
    city.lives(PAYMENT, version="1.4.2")
    city.lives(ANALYTICS)

    shown = city.map

    assert [event.type for event in shown.events] == ["order.placed", "payment.charged", "payment.failed"]
    (analytics, payment) = shown.services
    assert (payment.name, payment.workers, payment.versions, payment.is_divided) == ("payment", 1, ("1.4.2",), False)
    assert (payment.nodes, payment.seen, payment.waiting) == (("payment@a",), 1000.0, 0)
    assert analytics.has_handlers
    assert shown.idle == ()


def test_a_service_that_is_stopped_stays_with_what_waits_for_it(city: City):
    program = city.lives(PAYMENT)
    city.store.leave("payment", program.name)
    city.now += 100
    city.waiting = {"payment.charge": 7}

    (payment,) = city.map.services

    assert (payment.workers, payment.seen, payment.waiting, payment.nodes) == (0, 1000.0, 7, ("payment@a",))
    assert city.map.event("order.placed") is not None
    assert city.map.idle == ()


def test_a_program_that_only_publishes_is_on_the_map(city: City):
    web = Program("publisher@a/1", "publisher@a", digest=ORDER.digest)
    city.store.report("order", web, ORDER.to_json(), 0, ["orders.placed"])

    shown = city.map

    assert [event.announced_by for event in shown.events] == [
        (Announcer("order", "declared"),),
        (Announcer("order", "seen"),),
    ]
    assert [(service.name, service.has_handlers) for service in shown.services] == [("order", False)]


def test_an_event_that_reached_no_queue_is_on_the_map_with_its_source_and_their_number(city: City):
    city.lives(PAYMENT)
    city.store.note_unheard("payment", {"payment.charged": 2})
    city.store.note_unheard("menu", {"menu.changed": 212})

    menu, charged = city.map.event("menu.changed"), city.map.event("payment.charged")

    assert menu is not None
    assert (menu.announced_by, menu.lost, menu.lost_at) == ((Announcer("menu", "seen"),), 212, 1000.0)
    assert charged is not None
    assert (charged.announced_by, charged.lost) == ((Announcer("payment.charge"),), 2), "its handler says so"


def test_pauses_are_on_the_map_and_a_paused_queue_is_not_idle(city: City):
    told = ServiceDescription("payment", (HandlerDescription("payment.a", ("x.y",)),))
    city.lives(told, paused=("payment.a",))
    city.lives(ServiceDescription("driver", (HandlerDescription("driver.a", ("x.z",)),)))
    pause = city.store.pause(Pause("payment.a", reason="gateway down")).pause

    assert city.map.idle == ()
    assert city.map.paused == city.map.about("payment").paused == city.map.about("payment.a").paused == (pause,)
    assert city.map.about("driver").paused == ()
    assert city.map.to_dict()["paused"][0]["reason"] == "gateway down"


def test_queues_that_no_live_worker_consumes_are_named_with_what_waits(city: City):
    told = ServiceDescription(
        "payment", (HandlerDescription("payment.a", ("x.y",)), HandlerDescription("payment.b", ("x.y",)))
    )
    city.lives(told, "a/1", queues=("payment.a",))
    city.waiting = {"payment.b": 3}
    assert city.map.idle == (IdleQueue("payment.b", 3),)

    city.waiting = OSError("the broker is away")
    assert city.map.idle == (IdleQueue("payment.b", None),)
    assert city.map.services[0].waiting is None

    city.lives(told, "b/1", queues=("payment.b",))
    assert city.map.idle == ()


def test_the_queues_of_notices_and_tasks_are_named_if_something_waits_in_them(city: City):
    city.lives(PAYMENT)
    assert city.map.idle == ()

    city.waiting = {"payment.dead_letters": 2}

    assert city.map.idle == (IdleQueue("payment.dead_letters", 2),)


def test_the_queue_of_a_handler_that_is_gone_is_named_while_something_waits_in_it(city: City):
    city.lives(PAYMENT)
    city.store.register(["payment.old"])
    city.waiting = {"payment.old": 88}

    assert city.map.idle == (IdleQueue("payment.old", 88, is_undeclared=True),)


def test_workers_that_declare_different_things_divide_their_service(city: City):
    city.lives(PAYMENT, "a/1", version="1.4.1")
    city.now += 1
    newer = ServiceDescription("payment", (HandlerDescription("payment.charge", ("order.paid",), ()),))
    city.lives(newer, "b/1", version="1.4.2")

    (payment,) = city.map.services

    assert (payment.is_divided, payment.versions, payment.workers) == (True, ("1.4.1", "1.4.2"), 2)
    assert {event.type for event in city.map.events} >= {"order.placed", "order.paid"}


def test_a_description_that_cannot_be_read_is_a_fault(city: City):
    city.store.register(["payment"])
    city.store.report("payment", Program("payment@a/1", "payment@a", pool="solo", digest="d"), "no JSON", 60)

    (fault,) = city.map.faults

    assert fault.startswith("payment: what it declares cannot be read")


def test_workers_of_an_older_choreo_are_known_by_their_bindings(city: City):
    city.store.register(["payment.charge", "payment"])
    city.store.declare("payment", "old", [("payment.charge", "order.placed")], 60)

    shown = city.map

    assert [handler.name for handler in shown.handlers] == ["payment.charge"]
    assert shown.services[0].workers == 1
    assert shown.idle == ()
