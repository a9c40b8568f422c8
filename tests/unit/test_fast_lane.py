"""The wall around the fast lane: a service has one lane, or none, and then nothing of `choreo.fast` is in use."""

import ast
from pathlib import Path
from typing import Any

import pytest

import choreo
from choreo import Service
from choreo.errors import DeclarationError
from choreo.fast.fused_store import FusedStore
from choreo.store.redis import RedisStore
from choreo.worker.handler import HandlerTask
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, envelope

REDIS = "redis://127.0.0.1:1/0"
LIBRARY = Path(choreo.__file__).parent


def make_app(**settings: Any) -> Service:
    app = Service("payment", broker=REDIS, config=settings, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    @app.join(OrderConfirmed, PaymentCharged)
    def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    return app


def parts_of(app: Service) -> list[Any]:
    """The objects through which a delivery goes, and their classes."""
    task = app.tasks["payment.charge"]
    consumed = [queue for queue in app.amqp.queues.values() if queue.name.startswith("payment.")]
    event = envelope(OrderPlaced(customer_id="alice", total_cents=1))
    found = [task, app.runtime.store, task.Request, task.Strategy, task.delivery({}, event).decisions, *consumed]
    return [*found, *(kind for one in found for kind in type(one).__mro__)]


def of_the_lane(parts: list[Any]) -> list[str]:
    names = [part if isinstance(part, str) else getattr(part, "__module__", "") for part in parts]
    return [name for name in names if name.startswith("choreo.fast")]


def imported(source: Path) -> set[str]:
    """The modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_only_the_runtime_imports_the_fast_lane():
    outside = [source for source in LIBRARY.rglob("*.py") if LIBRARY / "fast" not in source.parents]
    importers = [
        str(source.relative_to(LIBRARY))
        for source in outside
        if any(f"{name}.".startswith("choreo.fast.") for name in imported(source))
    ]

    assert importers == ["runtime.py"]


def test_with_the_lane_off_nothing_of_it_is_in_use():
    app = make_app(choreo_fast_lane=False)

    assert app.runtime.lane is None
    assert type(app.tasks["payment.charge"]).__mro__[1] is HandlerTask
    assert type(app.runtime.store) is RedisStore
    assert of_the_lane(parts_of(app)) == []


def test_with_the_lane_on_the_same_parts_are_its_own():
    app = make_app()

    assert type(app.runtime.store) is FusedStore
    assert of_the_lane(parts_of(app))


@pytest.mark.parametrize("setting", [{}, {"choreo_fast_lane": True}])
@pytest.mark.parametrize("first", ["lane", "topology", "store", "tasks", "conf"])
def test_a_service_has_one_lane_whichever_part_is_made_first(first: str, setting: dict[str, Any]):
    app = make_app(**setting)
    assert getattr(app if first in ("tasks", "conf") else app.runtime, first) is not None
    lane = app.runtime.lane
    asked: list[Any] = []
    lane.on_consume = asked.append  # type: ignore[method-assign, union-attr]

    queue = app.amqp.queues["payment.charge"]
    queue.on_consume(queue)

    assert asked == [queue]
    assert app.runtime.lane is lane


@pytest.mark.parametrize("value", [0, 1, "no", "False", None])
def test_the_setting_takes_true_or_false(value: Any):
    app = make_app(choreo_fast_lane=value)

    # A worker asks when it is made. Celery would only log what finalizing the app raises.
    with pytest.raises(DeclarationError, match="choreo_fast_lane"):
        _ = app.runtime.lane
    with pytest.raises(DeclarationError, match="choreo_fast_lane"):
        _ = app.runtime.store
