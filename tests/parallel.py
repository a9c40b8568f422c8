"""
Which tests run, which of them pytest-xdist runs in the same process, and in which order it hands them out.

Some tests run in every pool, on each broker, with the fast lane and without. `SAMPLED` are the ways of these that only
`make test-all` runs (CHOREO_TESTS=all): the others are a sample with each pool, each broker and both lanes.

Each test is a unit of its own, except those that share a fixture of several seconds. The long ones come first; within
each directory the order is random.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Tests that share the fixture `world`: four services on one broker, with the fast lane or without.
WORLD = (
    "alerts",
    "dead_letters",
    "joins",
    "letter_groups",
    "retries",
    "schedule",
    "services",
    "shutdown",
    "stories",
    "unreadable",
)
#: Pattern of a test's id -> the group that runs in one process, with the groups of the pattern put in.
GROUPS = {
    rf"integration/test_(?:{'|'.join(WORLD)})\.py::.*\[((?:redis|rabbitmq)(?:, lane off)?)\b": r"world on \1",
    r"acceptance/test_story\.py::.*\[(redis|rabbitmq)\b": r"story on \1",
    r"acceptance/(faults)/": r"\1",
    r"integration/test_(rabbitmq_outage|flower)\.py": r"\1",
    r"acceptance/test_(types|package)\.py": r"\1",
    r"contract/test_(rights)\.py": r"\1",
    r"contract/.*(cluster)": r"\1",
    r"integration/test_(cluster)\.py": r"workers and \1",
    r"(containers)/": r"\1",
    r"(browser)/": r"\1",
}
#: Patterns of the ids of tests that only CHOREO_TESTS=all runs.
SAMPLED = re.compile(
    rf"integration/test_(?:{'|'.join(WORLD)})\.py::.*\[rabbitmq, lane off"
    r"|integration/test_(?:alerts|letter_groups|schedule)\.py::.*\[redis, lane off"
    r"|integration/test_async_handlers\.py::.*(?:redis|prefork-rabbitmq), lane off"
    r"|integration/test_batches\.py::.*(?:prefork-lane off|rabbitmq-prefork-(?:soft_)?time_limit|redis-threads-)"
    r"|integration/test_(?:breaker|pauses)\.py::.*\[(?:solo-redis|prefork-rabbitmq)(?:-True)?\]"
    r"|integration/test_pauses\.py::.*\[threads-redis(?:-True)?\]"
    r"|acceptance/test_demo\.py::.*\[Ctrl-C\]"
    r"|integration/test_(?:sequential|concurrency|fair_share)\.py::.*\[(?:redis-prefork|rabbitmq-solo)\]"
)
#: The directories of the tests, the one with the longest tests first: no process is left alone with a long one.
TIERS = ("acceptance", "chaos", "containers", "browser", "integration", "contract", "unit")


class Scheduling(LoadScopeScheduling):
    """Hands out groups and single tests one by one, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """The group of a test; its own id if it shares nothing."""
    for pattern, group in GROUPS.items():
        if match := re.search(pattern, nodeid):
            return match.expand(group)
    return nodeid


def is_whole() -> bool:
    """True if every test is to run, with many examples."""
    return os.environ.get("CHOREO_TESTS") == "all"


def sample(items: list[pytest.Item]) -> list[pytest.Item]:
    """Take the tests out that only CHOREO_TESTS=all runs. Returns them."""
    if is_whole():
        return []
    left_out = [item for item in items if SAMPLED.search(item.nodeid)]
    items[:] = [item for item in items if not SAMPLED.search(item.nodeid)]
    return left_out


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by directory, and groups before single tests. Keeps the order otherwise."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> tuple[Any, ...]:
    tier = item.path.relative_to(Path(__file__).parent).parts[0]
    group = group_of(item.nodeid)
    # Sorted by its group as well: without xdist a shared fixture is then set up once, too.
    return (group == item.nodeid, "" if group == item.nodeid else group, TIERS.index(tier))
