"""
What batches bring: `python -m bench.batches [HOW MANY] [POOL]`.

A worker with one place inserts a row into SQLite for each event, in a transaction of its own, and then the same in
batches of 100. It starts a Redis of its own. The figures are of the time from the first row to the last, and of the CPU
time of the worker, without its start.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from choreo import Batch, Event, Service
from choreo.local.server import EmbeddedServer

#: How many events there are, and the pool of the worker.
COUNT, POOL = 10_000, "solo"
#: The most seconds that one way may take.
PATIENCE = 600.0

app = Service("bench", broker=os.environ.get("BENCH_BROKER", "redis://127.0.0.1:1/0"), config=None)


class RowAdded(Event, type="bench.row_added"):
    """An event with a row to insert."""

    number: int = 0
    text: str = ""


def database() -> sqlite3.Connection:
    """The database, which has a table ``rows``."""
    return sqlite3.connect(os.environ["BENCH_DATABASE"], timeout=30)


def insert(rows: list[RowAdded]) -> None:
    """Insert these in one transaction. Rows that are there already are left out."""
    with database() as connection:
        values = [(row.number, row.text) for row in rows]
        connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", values)
    connection.close()


if os.environ.get("BENCH_WAY") == "batches":

    @app.on(RowAdded, name="keep", batch=Batch(size=100, wait=0.2))
    def keep_all(rows: list[RowAdded]) -> None:
        """Insert a batch."""
        insert(rows)

else:

    @app.on(RowAdded)
    def keep(row: RowAdded) -> None:
        """Insert one row."""
        insert([row])


def measure(way: str, count: int, pool: str, directory: Path) -> tuple[float, float]:
    """Events per second, and the CPU time of the worker per event in microseconds."""
    path = directory / f"{way}.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")
    with EmbeddedServer() as server:
        environment = os.environ | {"BENCH_BROKER": server.url, "BENCH_DATABASE": str(path), "BENCH_WAY": way}
        publisher = Service("publisher", broker=server.url, config=None, set_as_current=False)
        with app.connection_for_write(url=server.url) as connection:
            app.amqp.queues["bench.keep"](connection.default_channel).declare()
        publisher.publish_many(RowAdded(number=number, text="x" * 100) for number in range(count))
        options = [
            "-P",
            pool,
            "-c",
            "1",
            "-l",
            os.environ.get("BENCH_LOG", "WARNING"),
            "--without-mingle",
            "--without-gossip",
        ]
        command = [sys.executable, "-m", "celery", "-A", "bench.batches", "worker", *options]
        worker = subprocess.Popen(command, env=environment)
        try:
            return _timed(path, count, psutil.Process(worker.pid))
        finally:
            worker.terminate()
            worker.wait(30)


def _timed(path: Path, count: int, worker: psutil.Process) -> tuple[float, float]:
    connection = sqlite3.connect(path)
    began, spent, first, deadline = 0.0, 0.0, 0, time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
        if rows and not began:
            began, spent, first = time.monotonic(), _cpu(worker), rows
        if rows >= count:
            handled = max(count - first, 1)
            return handled / (time.monotonic() - began), (_cpu(worker) - spent) / handled * 1e6
        time.sleep(0.005 if not began else 0.02)
    raise TimeoutError(f"{count:,} rows took more than {PATIENCE:g} s")


def _cpu(worker: psutil.Process) -> float:
    times = [process.cpu_times() for process in (worker, *worker.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def main(count: int = COUNT, pool: str = POOL) -> None:
    """Print a table."""
    print(f"{count:,} rows, {pool} pool\n\n{'':<12}{'events/s':>12}{'CPU of the worker, per event':>32}")
    with tempfile.TemporaryDirectory() as directory:
        for way in ("one by one", "batches"):
            rate, micros = measure(way, count, pool, Path(directory))
            print(f"{way:<12}{rate:>12,.0f}{micros:>29,.0f} µs", flush=True)


if __name__ == "__main__":
    main(*(int(word) if word.isdigit() else word for word in sys.argv[1:]))  # type: ignore[arg-type]
