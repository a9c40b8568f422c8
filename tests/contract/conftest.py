"""Fixtures of the contract tests."""

from collections.abc import Iterator

import pytest

from choreo.fast import commits
from choreo.store import Store
from tests.contract.place import Place, Worker
from tests.contract.redis_broker import Corner
from tests.contract.redis_programs import Cluster, clustered
from tests.contract.rigs import ClusterRig, MemoryRig, RedisRig, Rig


@pytest.fixture
def corner(redis_url: str, namespace: str) -> Iterator[Corner]:
    """A corner of the tests' own server."""
    corner = Corner(redis_url, f"{namespace}:")
    yield corner
    corner.close()


@pytest.fixture
def place(redis_url: str, namespace: str) -> Iterator[Place]:
    place = Place(redis_url, namespace)
    yield place
    place.corner.close()


@pytest.fixture
def worker(place: Place) -> Worker:
    return Worker(place)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is: no commit goes out because of the time that has passed."""
    for name in ("QUICK_SECONDS", "SOON_SECONDS", "LATEST_SECONDS", "OLD_SECONDS"):
        monkeypatch.setattr(commits, name, 60.0)


@pytest.fixture
def redis_rig(redis_url: str, namespace: str) -> Iterator[RedisRig]:
    rig = RedisRig(redis_url, f"{namespace}:choreo")
    yield rig
    rig.close()


@pytest.fixture
def fused_rig(redis_url: str, namespace: str) -> Iterator[RedisRig]:
    rig = RedisRig(redis_url, f"{namespace}:choreo", fused=True)
    yield rig
    rig.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Redis Cluster. A test that moves slots moves them back."""
    with clustered(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster_rig(cluster: Cluster, namespace: str) -> Iterator[ClusterRig]:
    rig = ClusterRig(cluster.url, f"{namespace}:choreo")
    yield rig
    rig.close()


@pytest.fixture(params=["memory", "redis", "fused", "cluster"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return MemoryRig() if request.param == "memory" else request.getfixturevalue(f"{request.param}_rig")


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.store
