"""
``python -m bench.stage``: how long a test with 1,000 orders of the reference platform takes on a stage.

Each order is 12 deliveries to the handlers of six services, whose ledgers in SQLite are opened ten times meanwhile. The
rows: with the ledgers in memory; with the cards of half of the customers flaky, so that 1,000 retries fall due one by
one; and with the ledgers in files, as `handlers/ledger.py` keeps them. The figures are those of the fastest of
three runs: this process's CPU time, which a busy machine disturbs less, and the time on the wall.
"""

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from choreo.testing import stage
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.events import DriverAssigned, OrderPlaced
from handlers.ledger import Ledger

SERVICES = [module.app for module in (order, restaurant, payment, driver, notification, analytics, loyalty)]
ORDERS = 1_000
REPETITIONS = 3


def run(customers: tuple[str, ...]) -> int:
    """Run all orders to their end. Returns the number of deliveries."""
    platform = stage(*SERVICES)
    for number in range(ORDERS):
        placed = OrderPlaced(
            customer_id=customers[number % len(customers)], restaurant_id="pizza", items=["margherita"], total_cents=900
        )
        platform.publish(placed, subject=f"ORD-{number}")
    count = platform.advance(minutes=5, most=100_000)
    assert len(platform.announced(DriverAssigned)) == ORDERS
    return count


@contextmanager
def ledgers_in_memory() -> Iterator[None]:
    """Let every ledger of the platform be a database in memory."""
    kept: dict[str, sqlite3.Connection] = {}

    @contextmanager
    def opened(ledger: Ledger) -> Iterator[sqlite3.Connection]:
        if ledger.service not in kept:
            connection = kept[ledger.service] = sqlite3.connect(":memory:", isolation_level="IMMEDIATE")
            connection.row_factory = sqlite3.Row
            connection.executescript(ledger._tables)
        yield kept[ledger.service]

    before, Ledger._open = Ledger._open, opened  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Ledger._open = before  # type: ignore[method-assign]
        for connection in kept.values():
            connection.close()


@contextmanager
def ledgers_in_files() -> Iterator[None]:
    """Let the ledgers be files of their own, in /dev/shm if there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:  # noqa: PTH112
        os.environ["CHOREO_DATA"] = directory
        yield


def measured(ledgers: Callable[[], object], customers: tuple[str, ...]) -> tuple[float, float, int]:
    """CPU seconds, seconds, and the number of deliveries: of the fastest run."""
    results = []
    for _ in range(REPETITIONS):
        with ledgers_in_files(), ledgers():  # type: ignore[attr-defined]
            cpu, wall = time.process_time(), time.perf_counter()
            count = run(customers)
            results.append((time.process_time() - cpu, time.perf_counter() - wall, count))
    return min(results)


def main() -> None:
    """Print a table."""
    logging.disable()  # a line for each retry
    rows = {
        "ledgers in memory": (ledgers_in_memory, ("alice",)),
        "ledgers in memory, every second card flaky": (ledgers_in_memory, ("alice", "carol")),
        "ledgers in files": (ledgers_in_files, ("alice",)),
    }
    print(f"{ORDERS:,} orders on a stage           CPU s   wall s   deliveries   CPU µs each")
    for name, (ledgers, customers) in rows.items():
        cpu, wall, count = measured(ledgers, customers)
        print(f"{name:43} {cpu:7.2f} {wall:8.2f} {count:12,} {cpu / count * 1e6:13.0f}", flush=True)


if __name__ == "__main__":
    main()
