"""Hundreds of dead letters of one cause, repaired with one command: each event is handled once more, and only once."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import World
from tests.integration.services.words import OrderPlaced
from tests.waiting import DEADLINE, eventually

COUNT = 300
AWARD = "loyalty.award"


@pytest.fixture
def group(world: World, subject: str) -> Iterator[str]:
    """A group of `COUNT` letters, about subjects that begin alike. Its id."""
    for number in range(COUNT):
        world.publish(OrderPlaced(behave="fail at loyalty until replayed"), f"{subject}-{number}")
    eventually(lambda: world.app.dead_letters.count(AWARD, cause="ConnectionError") == COUNT, reason="all letters")
    (found,) = world.app.dead_letters.groups(AWARD, cause="ConnectionError")
    assert found.count == COUNT
    yield found.id
    for _ in world.app.dead_letters.discard_group(names=[AWARD], cause="ConnectionError"):
        pass


def command(world: World, *arguments: str) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    urls = ["--broker", world.broker_url, "--store", world.store_url]
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("choreo")), "dead-letters", *arguments, *urls],
        env={**os.environ, "CHOREO_NAMESPACE": world.namespace},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have started the tests in the background, where Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


def said(process: "subprocess.Popen[str]", code: int = 0) -> str:
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, output + errors
    return output + errors


def awards(world: World, subject: str) -> Counter[int]:
    """How often a handler began → how many orders."""
    notes = [note["subject"] for note in world.notes("award") if note["subject"].startswith(f"{subject}-")]
    return Counter(Counter(notes).values())


def assert_each_was_handled_once_more(world: World, subject: str) -> None:
    eventually(lambda: awards(world, subject) == {2: COUNT}, reason=f"{COUNT} orders that were handled twice")
    world.settled()
    assert awards(world, subject) == {2: COUNT}
    assert world.app.dead_letters.find(AWARD, cause="ConnectionError") == []


def test_a_group_is_found_and_replayed_with_a_canary_at_a_rate(world: World, subject: str, group: str):
    listed: list[dict[str, Any]] = [json.loads(line) for line in said(command(world, "groups", "--json")).splitlines()]
    (found,) = [one for one in listed if one["id"] == group]
    assert (found["count"], found["error"]) == (COUNT, "ConnectionError")
    assert re.search(
        rf"^{group} +300 .*{AWARD} +ConnectionError loyalty:\d+: the shop of # is away$", said(command(world)), re.M
    )

    output = said(
        command(world, "replay", group, "--canary", "--rate", "100/s", "--yes", "--reason", "the shop is back")
    )

    assert re.match(rf"1 of {COUNT} replayed \({subject}-\d+\): done in \d+ ms\.\n", output)
    assert f"{COUNT} of {COUNT} replayed.\n" in output
    assert_each_was_handled_once_more(world, subject)
    repair = world.app.repairs.recent()[0]
    assert (repair.action, repair.count, repair.reason) == ("replayed", COUNT, "the shop is back")


def test_an_interrupted_replay_and_two_at_once_replay_each_letter_once(world: World, subject: str, group: str):
    first = command(world, "replay", group, "--rate", "40/s")
    eventually(lambda: world.app.dead_letters.count(AWARD, cause=group) < COUNT, reason="the first replayed letters")
    first.send_signal(signal.SIGINT)
    output = said(first, code=130)
    done = re.search(rf"^(\d+) of {COUNT} replayed", output, re.M)
    assert done, output
    assert world.app.dead_letters.count(AWARD, cause=group) == COUNT - int(done[1])
    assert f"Stopped. To go on: choreo dead-letters replay {group} --rate 40/s\n" in output

    both = [command(world, "replay", group) for _ in range(2)]
    counts = []
    for process in both:
        output, errors = process.communicate(timeout=DEADLINE)
        found = re.search(r"^(\d+) of \d+ replayed", output, re.M)
        # It came too late to find a letter, or some were gone when it did.
        assert found or "no group of dead letters" in errors, output + errors
        counts.append(int(found[1]) if found else 0)

    assert sum(counts) == COUNT - int(done[1])
    assert_each_was_handled_once_more(world, subject)
