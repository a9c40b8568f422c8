"""Rare things, such as events that nobody hears, are reported together, and nobody waits for it."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from choreo import reports as module
from choreo.errors import StoreError
from choreo.reports import Reports
from choreo.testing.publisher import MemoryPublisher
from tests.unit.events import NOON, OrderPlaced
from tests.unit.stage import service
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


class Told(list[Mapping[str, int]]):
    """What the store was told. ``fails``: the errors of the next calls."""

    def __init__(self, *fails: Exception) -> None:
        self.fails = list(fails)

    def __call__(self, counts: Mapping[str, int]) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.append(dict(counts))


def test_events_are_counted_for_a_moment_and_reported_together() -> None:
    told = Told()
    reports = Reports(told, "events that nobody hears")

    for kind in ("order.placed", "order.placed", "menu.changed"):
        reports.note(kind)
    reports.flush(60)

    assert told == [{"order.placed": 2, "menu.changed": 1}]


def test_a_report_needs_no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TOGETHER", 0.01)
    told = Told()
    reports = Reports(told, "events that nobody hears")

    reports.note("order.placed")
    eventually(lambda: told, reason="a report")
    eventually(lambda: "choreo-reports" not in {thread.name for thread in threading.enumerate()}, reason="its end")
    reports.note("order.placed")

    eventually(lambda: len(told) == 2, reason="another thread, and another report")


def test_what_could_not_be_reported_is_reported_with_the_next_event() -> None:
    told = Told(StoreError("away"))
    reports = Reports(told, "events that nobody hears")

    reports.note("order.placed")
    reports.flush(60)
    assert told == []
    reports.note("order.placed")
    reports.flush(60)

    assert told == [{"order.placed": 2}]


def test_a_process_that_cannot_start_a_thread_goes_on_and_reports_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    told = Told()
    reports = Reports(told, "events that nobody hears")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        reports.note("order.placed")
        reports.flush(60)

    reports.note("order.placed")
    reports.flush(60)

    assert told == [{"order.placed": 2}]


def test_a_forked_child_reports_only_its_own_events() -> None:
    told = Told(StoreError("away"))
    reports = Reports(told, "events that nobody hears")
    reports.note("order.placed")
    reports.flush(60)

    reports.after_fork()
    reports.note("menu.changed")
    reports.flush(60)

    assert told == [{"menu.changed": 1}]


def test_a_publisher_reports_to_the_store_of_its_service() -> None:
    app = service("shop")
    publisher = MemoryPublisher(lambda messages: [False] * len(messages))
    publisher.report_unheard = app.runtime._report_unheard

    publisher.announce([OrderPlaced(customer_id="a").sealed(id="1", source="shop", subject="", cause=None, time=NOON)])
    app.runtime._unheard_reports.flush(60)

    assert app.runtime.store.unheard()["order.placed"].count == 1
    assert app.runtime.store.unheard()["order.placed"].source == "shop"


def test_a_program_that_knows_no_store_reports_nothing() -> None:
    app = service("shop")
    app.conf.choreo_store_url = None

    app.runtime._report_unheard("order.placed")

    assert app.runtime._unheard_reports is None


def test_a_short_program_reports_before_it_ends() -> None:
    code = (
        "from choreo.reports import Reports\n"
        "Reports.keep = reports = Reports(lambda counts: print(dict(counts), flush=True), 'events')\n"
        "reports.note('order.placed')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.stdout == "{'order.placed': 1}\n", done.stderr
