"""A platform starts real workers, tells when they are ready, and leaves nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import psutil
import pytest
from celery import Celery

from choreo.local import platform as module
from choreo.local.discovery import DiscoveryError
from choreo.local.platform import BrokerUnreachableError, NotReadyError, Platform, PlatformError, WorkerDiedError
from choreo.local.worker import worker_command
from tests.integration.orders import OrderPlaced
from tests.waiting import DEADLINE, eventually

#: Plain Celery apps that look like services: this is about processes, not about events.
SERVICE = """
import os, sys, time
from celery import Celery, signals

app = Celery("{0}")
app.service_name = "{0}"
app.conf.broker_url = os.environ.get("CHOREO_BROKER_URL")
app.conf.task_default_queue = "{0}"

@app.task(name="{0}.write", shared=False)
def write(path, after):
    open(path, "w").write("begun")
    time.sleep(after)
    open(path, "w").write("done")

@signals.worker_init.connect
def say(**_):
    print("store", os.environ.get("CHOREO_STORE_URL"), "motto", os.environ.get("MOTTO"), flush=True)
    if os.environ.get("TROUBLE") == "{0} dies":
        print("nothing will come of this", flush=True)
        os._exit(5)
    if os.environ.get("TROUBLE") == "{0} dawdles":
        print("just a moment", flush=True)
        while True:
            time.sleep(0.1)
"""

OPTIONS = ["--pool", "threads", "--concurrency", "1"]
PREFORK = ["--concurrency", "2"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of two services, "order" and "payment", that is importable in this process."""
    name = f"shop_{uuid4().hex[:8]}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    for service in ("order", "payment"):
        (tmp_path / name / f"{service}.py").write_text(SERVICE.format(service))
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories go in this test."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Something in the environment of every process that this test starts."""
    value = f"mark-{uuid4().hex}"
    monkeypatch.setenv("CHOREO_TEST_MARK", value)
    yield value
    monkeypatch.undo()
    left = marked(value)
    for process in left:
        process.kill()
    assert not left, f"left running: {left}"


def marked(mark: str) -> list[psutil.Process]:
    """Every process that runs with this mark, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("CHOREO_TEST_MARK") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Zombies have no environment, and other users' processes are none of ours.
            continue
    return found


def runs(process: psutil.Process) -> bool:
    """True if the process still does something; a zombie that its parent has not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_start_stop_and_come_back_one_by_one(package: str, temporary: Path, mark: str) -> None:
    with Platform(package, worker_options=OPTIONS) as platform:
        assert platform.services == {"order": f"{package}.order", "payment": f"{package}.payment"}
        assert platform.running == []

        platform.start()
        platform.wait_ready()
        assert platform.running == ["order", "payment"]
        assert "ready." in platform.log("payment").read_text()
        first = platform.pid("payment")

        platform.start()
        assert platform.pid("payment") == first

        platform.stop("payment")
        assert platform.running == ["order"]
        assert not psutil.pid_exists(first)

        platform.start("payment")
        platform.wait_ready()
        assert platform.pid("payment") != first
        assert platform.log("payment").read_text().count("ready.") == 2

        platform.kill("order")
        assert platform.running == ["payment"]
        assert platform.exited == {}

    # The mark shows that no process is left; the platform's own children have been collected as well.
    platform.close()
    assert list(temporary.iterdir()) == []
    assert [process for process in psutil.Process().children() if process.status() == psutil.STATUS_ZOMBIE] == []


def test_a_worker_finds_the_urls_and_the_given_environment(package: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with Platform(package, directory=logs, environment={"MOTTO": "ahoy"}, worker_options=OPTIONS) as platform:
        url = platform.broker_url
        platform.start("order")
        platform.wait_ready()

        platform.kill("order")

    assert f"store {url} motto ahoy" in (logs / "order.log").read_text()


def test_a_given_broker_and_store_are_used_and_not_stopped(package: str, redis_url: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with Platform(
        package, broker_url=redis_url, store_url="redis://elsewhere/3", directory=logs, worker_options=OPTIONS
    ) as platform:
        assert platform.server is None
        platform.start("order")
        platform.wait_ready()
        platform.kill("order")

    assert "store redis://elsewhere/3" in (logs / "order.log").read_text()
    module.check_broker(redis_url)


def test_stop_lets_a_worker_finish_what_it_has_begun(package: str, tmp_path: Path) -> None:
    written = tmp_path / "written"
    with Platform(package, worker_options=PREFORK) as platform:
        platform.start("order")
        platform.wait_ready()
        sender = Celery(broker=platform.broker_url)
        sender.send_task("order.write", (str(written), 0.7), queue="order")
        eventually(lambda: written.exists() and written.read_text() == "begun")

        platform.stop()

        assert written.read_text() == "done"


def test_close_with_force_does_not_wait(package: str, tmp_path: Path, mark: str) -> None:
    written = tmp_path / "written"
    with Platform(package, worker_options=PREFORK) as platform:
        platform.start("order")
        platform.wait_ready()
        Celery(broker=platform.broker_url).send_task("order.write", (str(written), 1000), queue="order")
        eventually(written.exists)

        began_at = time.monotonic()
        platform.close(force=True)

        assert time.monotonic() - began_at < DEADLINE / 2
        assert marked(mark) == []


def test_kill_takes_the_pool_along(package: str, mark: str) -> None:
    with Platform(package, worker_options=PREFORK) as platform:
        platform.start("order")
        platform.wait_ready()
        worker = psutil.Process(platform.pid("order"))
        pool = worker.children()
        assert len(pool) == 2

        platform.kill("order")

        assert not any(process.is_running() for process in [worker, *pool])


def test_a_worker_that_dies_is_named_with_the_end_of_its_log(package: str, mark: str) -> None:
    with Platform(package, environment={"TROUBLE": "payment dies"}, worker_options=OPTIONS) as platform:
        platform.start()
        with pytest.raises(
            WorkerDiedError, match=r"(?s)^payment ended with exit code 5\..*nothing will come"
        ) as caught:
            platform.wait_ready()

    assert caught.value.name == "payment"
    assert len(caught.value.lines) <= 20


def test_a_worker_that_is_killed_by_somebody_is_noticed(package: str) -> None:
    with Platform(package, worker_options=OPTIONS) as platform:
        platform.start("order")
        platform.wait_ready()

        os.kill(platform.pid("order"), signal.SIGKILL)

        assert eventually(lambda: platform.exited) == {"order": 128 + signal.SIGKILL}
        assert not platform.is_ready("order")


def test_workers_that_are_not_ready_in_time_are_named_with_what_they_said(package: str, mark: str) -> None:
    with Platform(package, environment={"TROUBLE": "order dawdles"}, worker_options=OPTIONS, grace=0.2) as platform:
        platform.start()
        eventually(lambda: platform.is_ready("payment"))
        eventually(lambda: "just a moment" in platform.log("order").read_text())

        with pytest.raises(NotReadyError, match=r"(?s)^Not ready after 0 s: order\..*just a moment") as caught:
            platform.wait_ready(timeout=0)

    assert caught.value.names == ["order"]


def test_an_unknown_service_is_refused_with_the_known_ones(package: str) -> None:
    with (
        Platform(package) as platform,
        pytest.raises(PlatformError, match=r"no service 'paiment'; it has order, payment"),
    ):
        platform.start("paiment")


def test_a_broker_that_does_not_answer_is_named_without_its_password(package: str) -> None:
    platform = Platform(package, broker_url="redis://:secret@127.0.0.1:1/0")

    with pytest.raises(BrokerUnreachableError, match=r"redis://:\*\*@127\.0\.0\.1:1/0 .*refused.*--broker") as caught:
        platform.start()

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_says_nothing_is_given_up(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BROKER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//"

        began_at = time.monotonic()
        with pytest.raises(BrokerUnreachableError):
            module.check_broker(url)

    assert time.monotonic() - began_at < DEADLINE / 2


def test_flower_answers_on_this_machine_only(package: str, mark: str) -> None:
    with Platform(package) as platform:
        url = platform.start_flower()
        with urllib.request.urlopen(f"{url}/workers", timeout=10) as answer:
            assert b"Flower" in answer.read()
        port = int(url.rpartition(":")[2])
        listening = [
            connection.laddr
            for process in marked(mark)
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        ]
        assert [address.ip for address in listening] == ["127.0.0.1"]


OWNER = """
import sys, time
from choreo.local import Platform

with Platform(sys.argv[1], worker_options={options}) as platform:
    platform.start()
    platform.wait_ready()
    print("ready", flush=True)
    while True:  # a signal that comes just before a sleep is handled after it
        time.sleep(0.1)
"""


@pytest.mark.parametrize(("number", "options"), [(signal.SIGINT, OPTIONS), (signal.SIGKILL, PREFORK)])
def test_nothing_is_left_after_ctrl_c_or_kill_9(
    package: str, temporary: Path, tmp_path: Path, mark: str, number: int, options: list[str]
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", dedent(OWNER).format(options=options), package],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    # The server overwrites its environment with its title, so the mark does not find it; its parent does.
    everybody = psutil.Process(owner.pid).children(recursive=True)
    # The server and two workers, each with a guard, and two guards for the directories.
    assert len(everybody) >= 8
    (server,) = [process for process in everybody if process.name() in ("valkey-server", "redis-server")]
    workers = [process for process in everybody if process.cmdline()[:2] == worker_command("")[:2]]

    # Ctrl-C reaches the whole group of the terminal.
    os.killpg(owner.pid, number)
    psutil.wait_procs([server], timeout=DEADLINE)
    assert not any(map(runs, workers)), "the server left its workers alone"
    owner.communicate(timeout=DEADLINE)

    # After Ctrl-C everything is gone with the owner; after a SIGKILL the guards see to it.
    eventually(lambda: not any(map(runs, everybody)), 10 if number == signal.SIGKILL else 0)
    assert marked(mark) == []
    assert list(temporary.iterdir()) == []


IMPORTED = """
import os
from pathlib import Path
from choreo import Envelope, Service

app = Service("courier", config=None, broker=os.environ["CHOREO_BROKER_URL"])

@app.on("order.placed")
def deliver(order: Envelope) -> None: ...

Path("{0}").write_text(app.conf.broker_write_url + " " + os.environ["CHOREO_STORE_URL"])
"""


def test_a_module_is_imported_with_the_broker_of_the_platform(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_BROKER_URL", "redis://production:6379/0")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://production:6379/0")
    monkeypatch.delenv("CHOREO_STORE_URL", raising=False)
    (tmp_path / package / "courier.py").write_text(IMPORTED.format(tmp_path / "seen"))
    before = dict(os.environ)

    platform = Platform(package)
    assert not (tmp_path / "seen").exists(), "nothing is imported before there is a broker"
    with platform:
        assert (tmp_path / "seen").read_text() == f"{platform.broker_url} {platform.broker_url}"
        assert "courier" in platform.services

    assert dict(os.environ) == before


def test_a_second_platform_in_one_process_has_its_own_broker(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_BROKER_URL", "redis://production:6379/0")
    monkeypatch.delenv("CHOREO_STORE_URL", raising=False)
    (tmp_path / package / "courier.py").write_text(IMPORTED.format(tmp_path / "seen"))
    urls = []

    for _ in range(2):
        with Platform(package) as platform:
            app = platform._found["courier"].app
            assert app.conf.broker_write_url == app.conf.choreo_store_url == platform.broker_url
            assert app.publisher.unheard == {}
            app.publish(OrderPlaced(number=1))
            app.runtime.store.ping()
            assert app.publisher.unheard == {"order.placed": 1}
            urls.append(platform.broker_url)

    assert urls[0] != urls[1]


def test_a_module_that_cannot_be_imported_leaves_nothing_running(package: str, tmp_path: Path, mark: str) -> None:
    (tmp_path / package / "courier.py").write_text(IMPORTED.format("/nowhere/at/all"))
    platform = Platform(package)

    with pytest.raises(DiscoveryError, match=r"courier cannot be imported: FileNotFoundError: .*/nowhere/at/all"):
        platform.open()

    assert marked(mark) == []
    assert platform.server is not None
    assert not platform.server.running
