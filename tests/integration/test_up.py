"""`choreo up`, as a developer uses it: a subprocess with a package of services in its directory."""

import os
import queue
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest
from click.testing import CliRunner

from choreo.cli.up import LogTail, folded, short_line, up
from tests.waiting import DEADLINE, eventually

#: The console script, which unlike `python -m` does not look for modules in the current directory by itself.
CHOREO = str(Path(sys.executable).with_name("choreo"))

EVENTS = """
from choreo import Event

class OrderPlaced(Event):
    customer_id: str
    restaurant_id: str
    items: list[str]
    total_cents: int

class PaymentCharged(Event):
    amount_cents: int
"""

SERVICE = """
from choreo import Service
from shop.events import OrderPlaced

app = Service("{0}")

@app.on(OrderPlaced)
def hear(order: OrderPlaced) -> None:
    print(f"{0} heard of {{order.customer_id}}")
"""


SEED = """
from shop.events import OrderPlaced
from shop.payment import app as payment

payment.publish(OrderPlaced(customer_id="seeded", restaurant_id="r", items=[], total_cents=1))
raise SystemExit("seed was imported")
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A project directory with a package of two services, `shop`."""
    directory = tmp_path / "project"
    (directory / "shop").mkdir(parents=True)
    (directory / "shop" / "__init__.py").touch()
    (directory / "shop" / "events.py").write_text(EVENTS)
    for name in ("kitchen", "payment"):
        (directory / "shop" / f"{name}.py").write_text(SERVICE.format(name))
    # Modules without a handler, which publish when they are imported, are not imported.
    (directory / "shop" / "seed.py").write_text(SEED)
    (directory / "shop" / "web.py").write_text(f"from choreo import Service\napp = Service('web')\n{SEED}")
    (directory / "celeryconfig.py").write_text(
        "import os\nbroker_url = os.environ['CHOREO_BROKER_URL']\n"
        "choreo_store_url = os.environ.get('CHOREO_STORE_URL')\n"
    )
    return directory


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What `choreo` is started with: its own temporary directory, and a mark by which all its processes are found."""
    mark = uuid4().hex
    (tmp_path / "tmp").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "CELERY"))}
    yield {**clean, "TMPDIR": str(tmp_path / "tmp"), "CHOREO_TEST_MARK": mark}
    left = everything(mark)
    for process in left:
        process.kill()
    assert not left, f"left running: {left}"
    assert list((tmp_path / "tmp").iterdir()) == []


def everything(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CHOREO_TEST_MARK") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Up:
    """`choreo up` with its output, which is read as it comes."""

    def __init__(self, here: Path, environment: dict[str, str], *arguments: str) -> None:
        self._mark = environment["CHOREO_TEST_MARK"]
        self._lines: queue.Queue[str] = queue.Queue()
        self._position = 0
        self.said = ""
        self.process = subprocess.Popen(
            [CHOREO, "up", *arguments],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern: str, timeout: float = DEADLINE) -> None:
        """Read on until something matches that was said after the previous match."""

        def found() -> "re.Match[str] | None":
            while not self._lines.empty():
                self.said += self._lines.get()
            return re.compile(pattern, re.MULTILINE).search(self.said, self._position)

        try:
            match = eventually(found, timeout)
        except AssertionError:
            raise AssertionError(f"{pattern!r} was not said, but this:\n{self.said[self._position :]}") from None
        assert match is not None
        self._position = match.end()

    def worker(self, service: str) -> psutil.Process:
        """The main process of a service's worker."""
        workers = [
            process
            for process in everything(self._mark)
            if f"shop.{service}" in process.cmdline() and "guard.py" not in " ".join(process.cmdline())
        ]
        return min(workers, key=lambda process: process.create_time())

    def end(self, number: int, timeout: float = DEADLINE) -> int:
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)


def run(here: Path, environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CHOREO, *arguments], cwd=here, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )


def test_a_developer_starts_everything_announces_an_event_and_stops_with_ctrl_c(
    here: Path, environment: dict[str, str]
) -> None:
    tool = Up(here, environment, "shop", "--pool", "threads")
    tool.wait_for("^Ctrl-C stops everything")

    header = tool.said
    assert "Starting 2 services of shop: kitchen, payment ..." in header
    assert "Not started, since no handler is declared for it: web (shop.web)." in header
    assert re.search(r"^  broker  redis://:\*\*@127\.0\.0\.1:\d+/0  \(embedded", header, re.MULTILINE)
    assert "  choreo publish order.placed --package shop --subject ORDER-1 --data '{" in header
    assert "  choreo web\n" in header
    assert max(map(len, header.splitlines())) <= 80

    # What it says about a second terminal, done as it says.
    lines = re.search(r"^  (export .*\n  choreo publish (?s:.*?)')\n\n", header, re.MULTILINE)
    assert lines is not None
    command = lines[1].replace("choreo publish", f"'{CHOREO}' publish")
    subprocess.run(["sh", "-e", "-c", command], cwd=here, env=environment, check=True, timeout=DEADLINE)
    tool.wait_for(r"^kitchen  \d\d:\d\d:\d\d WARNING kitchen heard of ")

    # Ctrl-C reaches the whole group of the terminal.
    assert tool.end(signal.SIGINT) == 0
    tool.wait_for("^Everything is stopped")
    assert everything(environment["CHOREO_TEST_MARK"]) == []


def test_a_worker_that_ends_is_reported_and_started_again_while_the_others_stay(
    here: Path, environment: dict[str, str]
) -> None:
    tool = Up(here, environment, "shop", "--pool", "solo", "--quiet")
    tool.wait_for("^Ctrl-C stops everything")
    kitchen, payment = tool.worker("kitchen"), tool.worker("payment")

    payment.kill()

    tool.wait_for(r"^payment was ended by signal 9\. The end of its log:\n(?s:.*)payment@\S+ ready\.")
    tool.wait_for("^payment is started again in 1 s; the others stay up")
    tool.wait_for("^payment is ready again")
    assert kitchen.is_running()
    assert tool.worker("payment").pid != payment.pid

    tool.worker("payment").kill()
    tool.wait_for("^payment is started again in 2 s")
    assert tool.end(signal.SIGTERM) == 0


def test_nothing_is_left_when_it_is_killed(here: Path, environment: dict[str, str], tmp_path: Path) -> None:
    tool = Up(here, environment, "shop", "--only", "payment", "--quiet", "--pool", "solo")
    tool.wait_for("^Ctrl-C stops everything")
    assert "1 service of shop: payment" in tool.said
    # The server overwrites its environment with its title, so the mark does not find it; its parent does.
    everybody = psutil.Process(tool.process.pid).children(recursive=True)
    assert "server" in " ".join(process.name() for process in everybody)

    tool.end(signal.SIGKILL)

    psutil.wait_procs(everybody, timeout=DEADLINE)
    eventually(lambda: not everything(environment["CHOREO_TEST_MARK"]))
    assert not [process for process in everybody if process.is_running()]
    eventually(lambda: not list((tmp_path / "tmp").iterdir()))


def test_the_printed_lines_reach_a_given_broker_and_store_and_show_no_password(
    here: Path, environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    logs, (before, _, _) = tmp_path / "logs", redis_url.rpartition("/")
    broker, store = f"{before}/7", f"{before}/8"
    where = ["--broker", broker, "--store", store, "--logs", str(logs)]
    tool = Up(here, environment, *where, "--only", "payment", "--pool", "solo")
    tool.wait_for("^Ctrl-C stops everything")
    password = urlsplit(redis_url).password
    assert password
    assert password not in tool.said
    assert "embedded" not in tool.said

    lines = re.search(r"^  (\. .*\n  choreo publish (?s:.*?)')\n\n", tool.said, re.MULTILINE)
    assert lines is not None
    private = Path(lines[1].partition("\n")[0].removeprefix(". "))
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    command = lines[1].replace("choreo publish", f"'{CHOREO}' publish")
    command += f"\n'{CHOREO}' dead-letters list payment"
    done = subprocess.run(
        ["sh", "-e", "-c", command], cwd=here, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.returncode, done.stderr) == (0, "")
    # It is the store that was given: the service has made itself known there.
    assert "No dead letters of payment." in done.stdout
    tool.wait_for(r"^payment  \d\d:\d\d:\d\d WARNING payment heard of ")

    assert tool.end(signal.SIGINT) == 0
    assert not private.exists()
    assert "ready." in (logs / "payment.log").read_text()


def test_workers_that_cannot_start_are_shown_and_nothing_is_left(here: Path, environment: dict[str, str]) -> None:
    result = run(here, environment, "up", "shop", "--pool", "swimming")

    assert result.returncode == 1
    assert re.search(r"Error: \w+ ended with exit code 2\.(?s:.*)'swimming' is not one of", result.stderr)
    assert "Everything is stopped." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nowhere"], "There is no package or module 'nowhere' here."),
        (["json"], "No module of 'json' defines a service."),
        (["shop.web"], "No service of 'shop.web' has a handler, so there is nothing to run: web (shop.web) can only"),
        (["shop", "--only", "web"], "web (shop.web) has no handler, so there is nothing to run. It can publish only."),
        ([], "No package in this directory has services. Name one"),
        (["shop", "--logs", "/proc/nowhere"], "choreo cannot make the directory of the logs, /proc/nowhere: "),
        (["shop", "--only", "kitchen,paiment"], "shop has no service 'paiment'; it has kitchen, payment."),
        (
            ["shop", "--broker", "redis://:secret@127.0.0.1:1/0"],
            "The broker at redis://:**@127.0.0.1:1/0 cannot be used",
        ),
        (["shop", "--broker", "carrier://pigeon"], "The broker at carrier://pigeon/ cannot be used: No such transport"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], fault: str
) -> None:
    monkeypatch.syspath_prepend(here)
    monkeypatch.chdir(here.parent)
    before = signal.getsignal(signal.SIGTERM)

    result = CliRunner().invoke(up, arguments, env={"CHOREO_BROKER_URL": None, "CHOREO_STORE_URL": None})
    signal.signal(signal.SIGTERM, before)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {fault}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_broker_in_the_environment_that_is_gone_is_named_with_the_way_out(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    monkeypatch.chdir(here)
    before = signal.getsignal(signal.SIGTERM)
    stale = {"CHOREO_BROKER_URL": "redis://:secret@127.0.0.1:1/0", "CHOREO_STORE_URL": None}

    result = CliRunner().invoke(up, ["shop"], env=stale)
    signal.signal(signal.SIGTERM, before)

    assert result.exit_code == 2
    assert "from a `choreo up` that has ended: `unset CHOREO_BROKER_URL CHOREO_STORE_URL`." in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_itself_refuses_with_exit_code_2(here: Path, environment: dict[str, str]) -> None:
    result = run(here, environment, "up", "nowhere")

    assert result.returncode == 2
    assert result.stderr.startswith("Error: There is no package or module 'nowhere' here.")


def test_only_complete_lines_are_followed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    tail = LogTail(log, log.stat().st_size)
    assert tail.new_lines() == []

    log.write_text("before\none\ntw")
    assert tail.new_lines() == ["one"]

    log.write_text("before\none\ntwo\n")
    assert tail.new_lines() == ["two"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[2026-11-23 17:42:01,123: INFO/MainProcess] Task received", "17:42:01 Task received"),
        ("[2026-11-23 17:42:01,123: ERROR/ForkPoolWorker-1] boom", "17:42:01 ERROR boom"),
        ('  File "x.py", line 1', '  File "x.py", line 1'),
    ],
)
def test_log_lines_are_shortened_to_what_a_terminal_has_room_for(line: str, shown: str) -> None:
    assert short_line(line) == shown


RUN = (
    "payment.charge(order.placed ORD-1): announced payment.charged in 3 ms "
    "[attempt {} of 6, waited 2 ms, event e, story s]"
)


@pytest.mark.parametrize(
    ("text", "service", "shown"),
    [
        (RUN.format(1), "payment", "charge(order.placed ORD-1): announced payment.charged in 3 ms"),
        (RUN.format(12), "payment", "charge(order.placed ORD-1): announced payment.charged in 3 ms [attempt 12 of 6]"),
        (RUN.format(1), "order", RUN.format(1)),
        ("payment.charge is no run [story]", "order", "payment.charge is no run [story]"),
    ],
)
def test_a_run_is_shown_without_its_service_and_its_ids(text: str, service: str, shown: str) -> None:
    line = f"[2026-11-23 17:42:01,123: INFO/MainProcess] {text}"

    assert short_line(line, service) == f"17:42:01 {shown}"


def test_a_long_line_is_folded_and_json_is_not() -> None:
    line = "17:42:01 " + "word " * 20

    assert all(len(part) <= 60 for part in folded(line, 60))
    assert folded(line, 60)[1].startswith(" " * 9 + "word")
    assert folded('{"message": "' + "word " * 20, 60) == ['{"message": "' + "word " * 20]
