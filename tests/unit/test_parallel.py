"""The tests that share a fixture of several seconds run in one process."""

import re
from pathlib import Path

import pytest

from tests.parallel import SAMPLED, WORLD, group_of

INTEGRATION = Path(__file__).parents[1] / "integration"
#: Each pool on each broker.
WAYS = [(pool, broker) for pool in ("solo", "threads", "prefork") for broker in ("redis", "rabbitmq")]


def test_each_file_that_uses_the_world_is_listed() -> None:
    using = re.compile(r"^(?:async )?def test_\w+\([^)]*\bworld\b", re.MULTILINE)
    files = [file for file in INTEGRATION.glob("test_*.py") if using.search(file.read_text())]

    # Those have a world of their own.
    own = {"cluster", "mutants"}
    assert {file.stem.removeprefix("test_") for file in files} - own == set(WORLD)


def test_each_kind_of_world_has_a_process() -> None:
    def group(param: str) -> str:
        return group_of(f"tests/integration/test_alerts.py::test_it[{param}]")

    assert group("redis") == group("redis-5")
    assert len({group(param) for param in ("redis", "rabbitmq", "redis, lane off", "rabbitmq, lane off")}) == 4


def test_a_sample_has_each_pool_each_broker_and_both_lanes() -> None:
    ways = [
        f"tests/integration/test_async_handlers.py::test_it[{pool}-{broker}{lane}]"
        for pool, broker in WAYS
        for lane in ("", ", lane off")
    ]
    left = " ".join(way for way in ways if not SAMPLED.search(way))

    assert all(word in left for word in ("solo", "threads", "prefork", "redis", "rabbitmq", "lane off"))
    assert any(SAMPLED.search(way) for way in ways)


@pytest.mark.parametrize("file", ["breaker", "pauses"])
@pytest.mark.parametrize("end", ["", "-True"])
def test_a_sample_of_two_files_has_each_pool_and_each_broker(file: str, end: str) -> None:
    ways = [f"tests/integration/test_{file}.py::test_it[{pool}-{broker}{end}]" for pool, broker in WAYS]
    left = " ".join(way for way in ways if not SAMPLED.search(way))

    assert all(word in left for word in ("solo", "threads", "prefork", "redis", "rabbitmq"))
    assert any(SAMPLED.search(way) for way in ways)
