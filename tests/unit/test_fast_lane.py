"""The wall around the fast lane: one file of the library imports it, and a setting turns it off."""

import ast
from pathlib import Path

import pytest

import choreo
from choreo import Service
from choreo.errors import DeclarationError
from choreo.fast.fused_store import FusedStore
from choreo.fast.task import FastHandlerTask
from choreo.store.redis import RedisStore
from choreo.worker.handler import HandlerTask
from tests.unit.events import OrderPlaced

LIBRARY = Path(choreo.__file__).parent


def on_redis(**settings: object) -> Service:
    config = {"broker_url": "redis://localhost:1/0", **settings}
    app = Service("payment", config=config, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


def imports(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_only_the_runtime_imports_the_fast_lane():
    outside = [source for source in LIBRARY.rglob("*.py") if LIBRARY / "fast" not in source.parents]
    importers = [
        str(source.relative_to(LIBRARY))
        for source in outside
        if any(name == "choreo.fast" or name.startswith("choreo.fast.") for name in imports(source))
    ]

    assert importers == ["runtime.py"]


def test_the_lane_is_on_by_default():
    app = on_redis()

    assert app.runtime.lane is not None
    assert isinstance(app.runtime.store, FusedStore)
    assert isinstance(app.tasks["payment.charge"], FastHandlerTask)


def test_the_queues_use_the_services_one_lane_whatever_is_read_first():
    app = on_redis()

    lane = app.runtime.lane
    assert lane is not None
    lane.on_consume = lambda queue: {"asked": queue.name}
    queue, *_ = app.runtime.topology.queues()

    assert queue.on_consume(queue) == {"asked": "payment.charge"}


def test_with_the_lane_off_nothing_of_it_is_attached():
    app = on_redis(choreo_fast_lane=False)

    task = app.tasks["payment.charge"]
    assert app.runtime.lane is None
    assert type(app.runtime.store) is RedisStore
    assert isinstance(task, HandlerTask)
    assert not isinstance(task, FastHandlerTask)
    assert "choreo.fast" not in f"{task.Strategy} {task.Request}"
    assert [queue.on_consume(queue) for queue in app.runtime.topology.queues() if queue.handler == task.name] == [None]


@pytest.mark.parametrize("setting", ["no", 0, None])
def test_the_switch_takes_true_or_false(setting: object):
    with pytest.raises(DeclarationError, match="choreo_fast_lane"):
        _ = on_redis(choreo_fast_lane=setting).runtime.lane
