"""`celery multi`, as init scripts use it: several workers of one service, which are stopped together and alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

import psutil
import pytest

from tests.integration.conftest import PACKAGE
from tests.integration.services.making import JOURNAL, NAMESPACE
from tests.waiting import DEADLINE, eventually

HOST = gethostname()


@dataclass
class Site:
    """Daemons of `celery multi`, with their pid files in one directory."""

    directory: Path
    environment: dict[str, str]

    def start(self, service: str, *nodes: str) -> None:
        files = [f"--pidfile={self.directory}/%n.pid", f"--logfile={self.directory}/%n.log"]
        self.celery("multi", "start", *nodes, "-A", f"{PACKAGE}.{service}", *files, "-l", "INFO", "-P", "solo")
        for node in nodes:
            eventually(lambda node=node: " ready." in self.log(node), reason=f"{node} is ready: {self.log(node)}")

    def celery(self, *arguments: str) -> str:
        outcome = subprocess.run(
            [sys.executable, "-m", "celery", *arguments],
            env=self.environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return outcome.stdout

    def pinged(self, service: str) -> set[str]:
        """The nodes that answer when this service is pinged."""
        answer = self.celery("-A", f"{PACKAGE}.{service}", "inspect", "ping", "--json").strip()
        return set(json.loads(answer.splitlines()[-1])) if answer else set()

    def log(self, node: str) -> str:
        path = self.directory / f"{node}.log"
        return path.read_text() if path.exists() else ""

    def running(self) -> set[str]:
        """The nodes whose pid file names a process that runs."""
        return {name for name, pid in self.pids().items() if psutil.pid_exists(pid)}

    def pids(self) -> dict[str, int]:
        found = {}
        for path in self.directory.glob("*.pid"):
            # The worker removes it when it ends.
            with suppress(FileNotFoundError, ValueError):
                found[path.stem] = int(path.read_text())
        return found

    def kill(self) -> None:
        for pid in self.pids().values():
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


@pytest.fixture
def site(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Site]:
    environment = os.environ | {
        "CHOREO_BROKER_URL": redis_url,
        "CHOREO_STORE_URL": redis_url,
        NAMESPACE: namespace,
        JOURNAL: str(tmp_path / "journal"),
    }
    site = Site(tmp_path, environment)
    yield site
    site.kill()


def test_a_services_workers_are_pinged_and_shut_down_while_another_service_lives(site: Site):
    site.start("payment", "one", "two")
    site.start("loyalty", "three")
    nodes = {f"payment.one@payment.{HOST}", f"payment.two@payment.{HOST}"}

    assert site.pinged("payment") == nodes
    assert site.pinged("loyalty") == {f"loyalty.three@loyalty.{HOST}"}

    site.celery("-A", f"{PACKAGE}.payment", "control", "shutdown")

    eventually(lambda: site.running() == {"three"}, reason="payment's workers end, and only they")
    assert site.pinged("loyalty") == {f"loyalty.three@loyalty.{HOST}"}
