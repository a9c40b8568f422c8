"""A RabbitMQ node of the tests' own, to be stopped, restarted and alarmed. The shared one is never touched."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import kombu
import pytest

from choreo.local.server import free_port
from tests.waiting import DEADLINE, eventually

#: Where distributions put the scripts that run as whoever calls them. Those on PATH change to the user rabbitmq.
BIN = Path("/usr/lib/rabbitmq/bin")
ADVANCED = "[{rabbit, [{consumer_timeout, 3000}, {channel_tick_interval, 500}]}].\n"


class RabbitNode:
    """A node on free ports with its own data, between `with` and the end of it."""

    def __init__(self) -> None:
        if not (BIN / "rabbitmq-server").exists():
            message = f"no {BIN}/rabbitmq-server: this needs a RabbitMQ installed on this machine"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        # The path of a node's directory ends up in names that Erlang wants short.
        self._home = Path(tempfile.mkdtemp(prefix="choreo-rabbit-"))
        self.port, distribution, names = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        (self._home / "rabbitmq.conf").write_text(f"listeners.tcp.default = 127.0.0.1:{self.port}\n")
        (self._home / "advanced.config").write_text(ADVANCED)
        (self._home / "plugins").write_text("[].\n")
        self._environment = os.environ | {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"choreo{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self._home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._home / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [BIN / "rabbitmq-server"], env=self._environment, stdout=out, stderr=out, start_new_session=True
            )
        eventually(self._answers, reason="the node answers")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(DEADLINE)
            self._process = None

    def control(self, *arguments: str) -> None:
        """Run rabbitmqctl on this node."""
        subprocess.run([BIN / "rabbitmqctl", "-q", *arguments], env=self._environment, check=True, timeout=DEADLINE)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        # The name server of Erlang outlives its nodes, in a session of its own.
        subprocess.run(["epmd", "-kill"], env=self._environment, capture_output=True, timeout=DEADLINE, check=False)
        shutil.rmtree(self._home, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._home / "out").read_text()
        try:
            with kombu.Connection(self.url, connect_timeout=10) as connection:
                connection.connect()
        except OSError:
            return False
        return True
