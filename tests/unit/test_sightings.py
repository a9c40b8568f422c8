"""Sightings: the register learns what a program announces outside of handlers, and nobody waits for that."""

import logging
import threading
from collections.abc import Sequence

import pytest

from choreo import Event
from choreo.errors import StoreError
from choreo.store.sightings import Sightings
from tests.unit.stage import service
from tests.waiting import DEADLINE


class OrderPlaced(Event):
    pass


class OrderCancelled(Event):
    pass


class Register:
    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.fails = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def report(self, types: Sequence[str]) -> None:
        self.may_answer.wait(DEADLINE)
        if self.fails:
            raise StoreError("the call to the store failed")
        self.told.append(list(types))


def test_each_type_is_told_once():
    register = Register()
    sightings = Sightings(register.report)

    for types in (["b.c", "a.b"], ["a.b"], [], ["c.d"], ["b.c"]):
        sightings.note(types)
        sightings.flush(DEADLINE)

    assert register.told == [["a.b", "b.c"], ["c.d"]]


def test_nobody_waits_and_what_comes_meanwhile_is_told_next():
    register = Register()
    register.may_answer.clear()
    sightings = Sightings(register.report)

    sightings.note(["a.b"])
    sightings.note(["b.c"])
    assert register.told == []
    register.may_answer.set()
    sightings.flush(DEADLINE)

    assert register.told == [["a.b", "b.c"]]


def test_what_could_not_be_told_is_told_with_the_next_type(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    register = Register()
    register.fails = True
    sightings = Sightings(register.report)
    sightings.note(["a.b"])
    sightings.flush(DEADLINE)
    assert "the store is not told of what this program announces (a.b): the call to the store failed" in caplog.text

    register.fails = False
    sightings.note(["b.c"])
    sightings.flush(DEADLINE)

    assert register.told == [["a.b", "b.c"]]


def test_a_forked_child_tells_only_what_it_has_seen_itself():
    register = Register()
    sightings = Sightings(register.report)
    sightings.note(["a.b"])
    sightings.flush(DEADLINE)

    sightings._reports.after_fork()
    sightings.note(["a.b", "b.c"])
    sightings.flush(DEADLINE)

    assert register.told == [["a.b"], ["b.c"]]


def test_a_program_that_publishes_is_known_with_its_declaration_and_its_version():
    app = service("shop", choreo_version="1.4.2")

    app.publish(OrderPlaced())
    app.publish(OrderCancelled(), delay=60)
    app.runtime.sightings.flush(DEADLINE)

    presence = app.runtime.store.presence("shop")
    assert list(presence.announced) == ["order.cancelled", "order.placed"]
    assert presence.current == [app.describe().to_json()]
    (program,) = presence.gone
    assert (program.version, program.is_worker, program.file) == ("1.4.2", False, app.runtime.file)
    assert app.runtime.store.services() == ["shop"]


def test_an_event_that_was_not_announced_is_not_told():
    app = service("shop")
    app.publisher.message_for = lambda _: None

    with pytest.raises(AttributeError):
        app.publish(OrderPlaced())
    app.runtime.sightings.flush(DEADLINE)

    assert app.runtime.store.services() == []


def test_a_program_that_only_publishes_needs_no_store():
    from choreo import Service

    app = Service("shop", config=None, broker="memory://", set_as_current=False)

    app.publish(OrderPlaced())

    assert app.runtime.sightings is None
