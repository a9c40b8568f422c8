"""A Redis Cluster is refused with one sentence that says the way out. It was "7544 127.0.0.1:17102"."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from choreo import PublishError, Service
from choreo.broker.redis.taking import serving
from choreo.errors import StoreError
from choreo.local.server import free_port
from choreo.redis_client.refusals import REMEDIES, is_outage
from tests.contract.redis_programs import running
from tests.unit.events import OrderPlaced


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node of a cluster. Half of the slots are said to be on another one."""
    directory, port = tmp_path_factory.mktemp("cluster"), free_port()
    client = redis.Redis(port=port)
    options = ["--port", port, "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--cluster-enabled", "yes"]
    options += ["--cluster-port", free_port()]
    with running(*options, answers=client.ping, log=Path(directory) / "log"):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield f"redis://127.0.0.1:{port}/0"


def make_app(url: str, *, lane: bool = True) -> Service:
    app = Service("payment", broker=url, config={"choreo_fast_lane": lane}, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


def test_publishing_to_a_cluster_says_so(cluster: str) -> None:
    with pytest.raises(PublishError, match=r"This is a Redis Cluster.*Sentinels of one.*RabbitMQ as the broker"):
        make_app(cluster).publish(OrderPlaced(customer_id="alice", total_cents=5))


@pytest.mark.parametrize(
    "error", [redis.exceptions.MovedError("7544 127.0.0.1:17102"), redis.exceptions.ResponseError("CROSSSLOT Keys")]
)
def test_no_worker_waits_for_a_cluster(error: Exception) -> None:
    failed = make_app("redis://127.0.0.1:1").runtime.store._calls.failed(error)

    assert isinstance(failed, StoreError)
    assert not failed.is_outage
    assert not is_outage(error)
    assert REMEDIES["MOVED"] in str(failed)
    with pytest.raises(redis.ConnectionError, match="This is a Redis Cluster"), serving():
        raise error
