"""
The publisher process: reads orders as JSON lines, and answers each with one line.

    {"do": "publish", "kind": "order.viewed", "first": 0, "most": 2000, "seconds": 1.0, "rate": 0}

publishes events from number ``first`` on, as fast as possible or at ``rate`` per second, until ``most`` are published
or ``seconds`` are over. The answer holds their count, the times of begin and end, and the CPU seconds.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.setting import current

PAIR = ("item.packed", "label.printed")


class Numbers:
    """Iterates over the numbers to publish, at the given rate. ``times`` records when each was yielded."""

    def __init__(self, first: int, most: int, seconds: float, rate: float) -> None:
        self.first, self.most, self.seconds, self.rate = first, most, seconds, rate
        self.times: list[float] = []

    def __iter__(self) -> Iterator[int]:
        start = time.monotonic()
        for index in range(self.most):
            now = time.monotonic()
            if self.rate and (early := start + index / self.rate - now) > 0:
                time.sleep(early)
                now = time.monotonic()
            if now - start > self.seconds:
                return
            self.times.append(now)
            yield self.first + index


def publish(publisher: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order to publish, and return the answer."""
    numbers = Numbers(order["first"], order["most"], order["seconds"], order.get("rate", 0))
    kind = order["kind"]
    started, cpu = time.monotonic(), time.process_time()
    if kind == "pair":
        publisher.publish_pairs(PAIR, numbers)
    elif order.get("bulk"):
        publisher.fill(kind, numbers)
    else:
        publisher.publish_all(kind, numbers)
    ended, cpu = time.monotonic(), time.process_time() - cpu
    answer = {"count": len(numbers.times), "started": started, "ended": ended, "cpu": cpu}
    return answer | ({"times": numbers.times} if order.get("rate") else {})


def answer(publisher: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order, and return the answer."""
    match order["do"]:
        case "prepare":
            publisher.prepare()
        case "publish":
            return publish(publisher, order)
        case "lengths":
            # The length of a queue is not known for every peer.
            queues = publisher.queues(order["kind"]) if hasattr(publisher, "queues") else []
            return dict(publisher.lengths(queues)) if queues else {}
        case "purge":
            for queue in publisher.queues(order["kind"]):
                publisher.purge(queue)
        case "bind others":
            publisher.bind_others(order["first"], order["count"])
    return {}


def main() -> None:
    """Answer orders until standard input ends."""
    # Standard output becomes standard error, so that the output of a library is not taken for an answer.
    with os.fdopen(os.dup(1), "w") as out, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        publisher = importlib.import_module(current().module).Publisher()
        print("{}", file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(publisher, json.loads(line))), file=out, flush=True)
        if hasattr(publisher, "close"):
            publisher.close()


if __name__ == "__main__":
    main()
