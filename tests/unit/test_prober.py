"""The prober: what becomes of a breaker's pause that no worker probes."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from choreo import HandlerResumed, Service
from choreo.durations import moment_of
from choreo.store.pauses import BREAKER, Pause
from choreo.worker.probes import UNPROBED, Prober
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service

CHARGE = "payment.charge"


@pytest.fixture
def app() -> Service:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


def look(stage: Stage) -> None:
    worker = SimpleNamespace(app=stage.app, consumer=SimpleNamespace())
    Prober(worker).look(stage.store.pauses([CHARGE]))


def test_a_pause_of_a_breaker_that_was_removed_ends_and_that_is_announced(app):
    stage = Stage(app)
    at = moment_of(stage.store.now()) + timedelta(seconds=1)
    stage.store.pause(Pause(CHARGE, id="p-1", by=BREAKER, probe_at=at))

    stage.wait(UNPROBED)
    look(stage)
    assert stage.store.pause_of(CHARGE) is not None, "workers of another version may still probe"

    stage.wait(2)
    look(stage)
    stage.run()
    assert stage.store.pause_of(CHARGE) is None
    alert = stage.announced(HandlerResumed).one()
    assert (alert.handler, alert.by) == (CHARGE, BREAKER)
