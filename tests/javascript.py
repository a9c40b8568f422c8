"""The service in JavaScript that docs/other-languages.md shows, as a process."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ending import with_this_process
from tests.waiting import DEADLINE, eventually

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "tax.mjs"


@contextmanager
def tax_service(redis_url: str, namespace: str, *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run it until the end of the block: it listens. Skips where there is no Node.js, and fails in CI."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [node_or_skip(), str(EXAMPLE)],
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=with_this_process,
            env=os.environ | {"REDIS_URL": redis_url, "CHOREO_NAMESPACE": namespace},
        )
    try:
        eventually(lambda: "listening" in log.read_text() or process.poll() is not None, reason="node to listen")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)


def node_or_skip() -> str:
    """The command of Node.js; skips where there is none, and fails in CI."""
    found = shutil.which("node")
    if found is None:
        reason = "no node on PATH: install Node.js 18 or later, so that a service in JavaScript is tried"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(found)
