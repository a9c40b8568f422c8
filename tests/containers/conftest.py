"""
The services of `services/`, each in a container of its own, with the broker as docker-compose.yml has it.

This is pytest-celery as its documentation describes it, with one switch: where no Docker engine answers,
`docker_client` runs the containers as local processes. CHOREO_TEST_ENGINE=local does so in any case.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import pytest
import yaml
from docker.errors import DockerException
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBroker,
)
from pytest_docker_tools import build, container, fxtr, network, volume
from redis import Redis

from choreo import Service
from tests.containers.engine import LocalDockerClient
from tests.containers.services.events import DishOrdered
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
SERVICES = Path(__file__).parent / "services"
REDIS = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]
#: Seconds until a container is up. Starting a worker takes about two.
START_SECONDS = 120
#: Seconds until a log has a line that the test waits for. Taking over the work of a dead worker takes about five.
LOG_SECONDS = 120


class Broker(RedisContainer):
    """The Redis of docker-compose.yml. The password makes sure that nobody talks to somebody else's."""

    password = secrets.token_urlsafe(16)

    @classmethod
    def image(cls) -> str:
        return str(REDIS["image"])

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        return [*REDIS["command"], "--requirepass", cls.password, *args]

    @property
    def url(self) -> str:
        return f"redis://:{quote(self.password)}@{self.hostname}:6379/0"

    @property
    def host_url(self) -> str:
        host, port = self.get_addr("6379/tcp")
        return f"redis://:{quote(self.password)}@{host}:{port}/0"

    @property
    def client(self) -> Redis:
        return Redis.from_url(self.host_url)


class Kitchen(CeleryWorkerContainer):
    """A worker with one process, so that a test knows what the next event waits for."""

    @classmethod
    def worker_name(cls) -> str:
        return "kitchen"

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        name = cls.worker_name()
        options = ["--loglevel", "INFO", "--concurrency", "1", "--without-mingle", "--without-gossip"]
        return ["celery", "-A", name, "worker", "-n", f"{name}@%h", *options, *args]

    def _wait_ready(self, timeout: int = START_SECONDS) -> bool:
        # pytest-celery's own waits for the whole time even when the worker has ended, and then cannot show its log.
        self.wait_for_log(self.ready_prompt, timeout)
        return True

    def wait_for_log(self, text: str, timeout: float = LOG_SECONDS, times: int = 1) -> None:
        """Wait until the log says it so often. Fails with the log, at once when the worker has ended."""

        def is_said() -> bool:
            self.reload()
            running = self.status == "running"
            if self.logs().count(text) >= times:
                return True
            assert running, "the worker has ended"
            return False

        try:
            eventually(is_said, timeout)
        except AssertionError as error:
            pytest.fail(f"{self.worker_name()} does not log {text!r}: {error}. It says:\n{self.logs()[-4000:]}")


class Counter(Kitchen):
    @classmethod
    def worker_name(cls) -> str:
        return "counter"


class Worker(CeleryTestWorker):
    """A worker whose restart is over when it consumes again, not when its log says so from the last time."""

    def restart(self, *args: Any, **kwargs: Any) -> None:
        starts = self.logs().count(self.container.ready_prompt)
        super().restart(*args, **kwargs)
        self.container.wait_for_log(self.container.ready_prompt, START_SECONDS, times=starts + 1)


class Setup(CeleryTestSetup):
    """Its app is a service that only announces."""

    @classmethod
    def create_setup_app(cls, celery_setup_config: dict[str, Any], **_: Any) -> Service:
        app = Service("guest", config=None)
        app.conf.broker_url = celery_setup_config["broker_url"]
        return app


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Any]:
    """Docker where an engine answers, local processes where none does."""
    engine = None if os.environ.get("CHOREO_TEST_ENGINE") == "local" else _docker()
    if engine is not None:
        yield engine
        return
    with pytest.MonkeyPatch.context() as patch:
        # Tests that run in a container themselves would look for the broker at port 6379 of its address, which is
        # this machine's here: that is a Redis, if there is one, but not ours.
        patch.setattr("pytest_docker_tools.wrappers.container.tests_inside_container", lambda: False)
        yield LocalDockerClient()


def _docker() -> Any:
    try:
        client = docker.from_env()
        client.ping()
    except (DockerException, OSError):
        return None
    return client


containers_network = network(scope="session")
containers_image = build(path=str(ROOT), tag="choreo-handlers")
services_volume = volume(
    scope="session", initial_content={path.name: path.read_bytes() for path in SERVICES.glob("*.py")}
)
broker_container = container(
    scope="session",
    image=Broker.image(),
    command=fxtr("broker_command"),
    ports=Broker.ports(),
    network="{containers_network.name}",
    wrapper_class=Broker,
    timeout=START_SECONDS,
)


@pytest.fixture(scope="session")
def broker_command() -> list[str]:
    """A fixture of its own, because pytest-docker-tools makes None of an empty word in a literal command."""
    return Broker.command()


@pytest.fixture(scope="session")
def services_environment(broker_container: Broker) -> dict[str, str]:
    return {"CHOREO_BROKER_URL": broker_container.url, "PYTHONPATH": "/services", "PYTHONDONTWRITEBYTECODE": "1"}


def _worker_container(kind: type[Kitchen]) -> Any:
    return container(
        scope="session",
        image="{containers_image.id}",
        command=kind.command(),
        environment=fxtr("services_environment"),
        volumes={"{services_volume.name}": {"bind": "/services", "mode": "ro"}},
        network="{containers_network.name}",
        wrapper_class=kind,
        timeout=START_SECONDS,
    )


kitchen_container = _worker_container(Kitchen)
counter_container = _worker_container(Counter)


@pytest.fixture(scope="session")
def celery_broker_cluster(broker_container: Broker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(RedisTestBroker(broker_container))


@pytest.fixture(scope="session")
def celery_backend_cluster() -> None:
    """There are no results: what a handler has to say, it announces."""


@pytest.fixture(scope="session")
def celery_worker_cluster(kitchen_container: Kitchen, counter_container: Counter) -> CeleryWorkerCluster:
    return CeleryWorkerCluster(Worker(kitchen_container, None), Worker(counter_container, None))


@pytest.fixture
def celery_setup_cls() -> type[Setup]:
    return Setup


@pytest.fixture
def kitchen(celery_setup: CeleryTestSetup) -> Worker:
    return _running(celery_setup.worker_cluster[0])


@pytest.fixture
def counter(celery_setup: CeleryTestSetup) -> Worker:
    return _running(celery_setup.worker_cluster[1])


@pytest.fixture
def order(celery_setup: CeleryTestSetup) -> Callable[[str, str], None]:
    """Announce that somebody ordered a dish: ``order("soup", "ORD-1")``."""

    def order(dish: str, subject: str) -> None:
        # Anew each time, because a broker that restarts in a container gets another port.
        guest = Setup.create_setup_app({"broker_url": celery_setup.broker.config()["host_url"]})
        guest.publish(DishOrdered(dish=dish), subject)
        guest.close()

    return order


def _running(worker: Worker) -> Worker:
    """The worker, started again if the test before has ended it."""
    worker.container.reload()
    if worker.container.status == "exited":
        worker.restart()
    return worker
