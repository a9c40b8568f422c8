"""A RabbitMQ node of the tests' own, to be stopped, restarted and alarmed. The shared one is never touched."""

import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import kombu
import pytest

from choreo.local.guard import Guard
from tests.servers import free_ports
from tests.waiting import DEADLINE, eventually

#: Where distributions put the scripts that run as whoever calls them. Those on PATH change to the user rabbitmq.
#: `CHOREO_TEST_RABBITMQ_BIN` names those of another version.
BIN = Path(os.environ.get("CHOREO_TEST_RABBITMQ_BIN", "/usr/lib/rabbitmq/bin"))
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
        self.port, distribution, names = free_ports(3)
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
        self._janitor = Guard(rmtree=self._home)
        self._guard: Guard | None = None

    def start(self) -> None:
        # It ends with this process, and so does the name server of Erlang, which leaves for a session of its own.
        self._guard = Guard(
            [BIN / "rabbitmq-server"], env=self._environment, log=self._home / "out", before=[self._janitor]
        )
        eventually(self._answers, reason="the node answers")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._guard is not None:
            self._guard.kill()
            self._guard = None

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
        self._janitor.stop()

    def _answers(self) -> bool:
        assert self._guard is not None
        assert self._guard.poll() is None, (self._home / "out").read_text()
        try:
            with kombu.Connection(self.url, connect_timeout=10) as connection:
                connection.connect()
        except OSError:
            return False
        return True
