"""
How long the commands take that look at many dead letters: `python -m bench.dead_letters [HOW MANY] [REDIS URL]`.

It needs a Redis with nothing else in the keys of its namespace, whose keys it deletes at the end. Half of the letters
are of one handler and cause, the others of nine.
"""

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from subprocess import run
from typing import Any
from uuid import uuid4

import redis

from choreo import Service
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.store.claims import Claim, Settlement

#: How many letters there are, and where.
COUNT, URL = 100_000, "redis://127.0.0.1:6379/0"
NAMESPACE = "bench-letters"
_TRACE = (
    "Traceback (most recent call last):\n"
    + '  File "/app/shop/payment.py", line 94, in charge\n    gateway.charge(order)\n' * 8
    + "{error}"
)


def letters(count: int) -> Iterator[DeadLetter]:
    """Letters of five handlers, with two causes each."""
    for number in range(count):
        kind = 0 if number % 2 else number // 2 % 10
        handler = f"payment.charge_{kind // 2}"
        error = f"{('ConnectionError', 'ValueError')[kind % 2]}: order ORD-{number} was refused by 10.0.0.{number % 99}"
        now = datetime.now(UTC)
        event_id = str(uuid4())
        event = Envelope(
            event_id, "order.placed", "order", f"ORD-{number}", now, event_id, data={"customer_id": "a" * 300}
        )
        message = Message.carrying(event, exchange="", routing_key=handler)
        trace = _TRACE.format(error=error)
        yield DeadLetter("payment", handler, Reason.EXHAUSTED, error, message, trace, 6, event.identity, (event,), now)


def fill(app: Service, count: int) -> None:
    """Record letters as workers do."""
    store = app.runtime.store
    store.register([f"payment.charge_{number}" for number in range(5)])
    for letter in letters(count):
        claim = Claim(letter.handler, letter.unit or "", uuid4().hex)
        store.begin(claim)
        store.commit(claim, Settlement(letter=(letter.id, letter.to_json(), letter.card)))


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Run it three times, and print the best time."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        answer = call()
        times.append(time.perf_counter() - began)
    print(f"{what:<58}{min(times) * 1000:>8.0f} ms")
    return answer


def command(url: str, *words: str) -> None:
    """Run a command in a process of its own."""
    place = ["--broker", url, "--namespace", NAMESPACE]
    run([sys.executable, "-m", "choreo", *words, *place], check=True, capture_output=True)


def main(count: int = COUNT, url: str = URL) -> None:
    """Print a table."""
    app = Service("bench", broker=url, config=None, choreo_namespace=NAMESPACE)
    client = redis.Redis.from_url(url)
    try:
        before, began = client.info("memory")["used_memory"], time.perf_counter()
        fill(app, count)
        seconds = time.perf_counter() - began
        size = (client.info("memory")["used_memory"] - before) / count
        print(f"{count:,} dead letters, {size:,.0f} bytes each; recorded in {seconds:.0f} s\n")
        found = app.dead_letters
        groups = timed("groups", found.groups)
        timed("a page of 50", lambda: found.page(limit=50))
        timed("a page of 50 of one cause", lambda: found.page(cause=groups[0].id, limit=50))
        timed("count of the last hour", lambda: found.count(since=timedelta(hours=1)))
        timed("groups about one subject", lambda: found.groups(subject=f"ORD-{count - 1}"))
        timed("choreo dead-letters", lambda: command(url, "dead-letters"))
        timed("choreo dead-letters list", lambda: command(url, "dead-letters", "list"))
        timed("choreo dead-letters list --subject", lambda: command(url, "dead-letters", "list", "--subject", "ORD-5"))
        began = time.perf_counter()
        *_, told = found.replay_group(groups[1].id)
        print(f"replay of {told.done:,}: {time.perf_counter() - began:.1f} s")
    finally:
        for key in client.scan_iter(f"choreo:{NAMESPACE}:*", count=1000):
            client.unlink(key)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT, *sys.argv[2:3])
