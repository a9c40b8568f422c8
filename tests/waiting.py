"""Waiting for a reaction, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds. A deadline costs nothing when the test passes, so it leaves room for a machine that is busy with more.
DEADLINE = 120.0


def eventually(probe: Callable[[], T], timeout: float = DEADLINE, reason: str = "") -> T:
    """Call ``probe`` until it answers something true, and return that. Fails with its last answer."""
    begun_at = time.monotonic()
    while True:
        answer = probe()
        if answer:
            return answer
        waited = time.monotonic() - begun_at
        if waited > timeout:
            raise AssertionError(f"not within {timeout:g} s: {reason or probe.__name__}; last answer: {answer!r}")
        # Less often after a while: what is waited for needs the processor as well.
        time.sleep(min(0.02 + waited / 20, 0.2))
