"""
``python -m bench.waiting``: async handlers, beside FastStream, which is made for them.

    python -m bench.waiting                     on Redis and RabbitMQ, three times round
    python -m bench.waiting --only redis -r 1   one broker, once

One worker handles a backlog: of events whose handler awaits 50 ms, with 500 handlers at once, and of events whose
handler awaits nothing. The figures are those of the middle of the backlog, from a tenth of it to nine tenths, so that
starting and ending count for neither: events per second, and CPU microseconds per event of the worker. The ideal of
500 handlers that await 50 ms is 10,000 events/s. Sides are interleaved; a figure is the median of its repetitions, and
the ratio is taken within each repetition.

choreo runs with its promises (each effect once, commits and acks recorded) and worker events; FastStream acks each
event after its handler, with uvloop.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import environments
from bench.brokers import Broker, Redis, rabbitmq_broker, redis_broker
from bench.marks import Marks
from bench.processes import session_cpu, start, stop, tail
from bench.setting import ROOT, VARIABLE, Setting
from bench.side import Side

#: Seconds that a handler awaits.
WORK = (0.05, 0.0)
#: Events of a backlog.
EVENTS = 10_000
CONCURRENCY = 500
#: The most seconds of one measurement.
PATIENCE = 90.0
MODULES = {"choreo": "bench.sides.choreo_waiting", "faststream": "bench.peers.faststream_waiting"}


@dataclass(frozen=True)
class Figures:
    """The figures of one measurement."""

    per_second: float
    #: CPU microseconds per event.
    cpu: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.waiting")
    parser.add_argument("-r", "--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=("redis", "rabbitmq"))
    parser.add_argument("--sides", nargs="*", default=list(MODULES), choices=list(MODULES))
    parser.add_argument("--pool", default="threads", choices=("threads", "solo"))
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--redis")
    parser.add_argument("--rabbitmq", default="amqp://guest:guest@127.0.0.1:5672")
    options = parser.parse_args(arguments)
    found: dict[tuple[str, float, str], list[Figures]] = {}
    with ExitStack() as stack:
        store = stack.enter_context(redis_broker(options.redis))
        brokers: dict[str, Broker] = {"redis": store} if options.only != "rabbitmq" else {}
        if options.only != "redis" and (rabbit := stack.enter_context(rabbitmq_broker(options.rabbitmq))):
            brokers["rabbitmq"] = rabbit
        for _ in range(options.repetitions):
            for name, broker in brokers.items():
                for seconds in WORK:
                    for approach in options.sides:
                        side = _side(approach, name, options.pool)
                        if environments.ready(side):
                            figures = measure(side, broker, store, seconds, options.events)
                            print(f"{side.name}, {seconds:g} s: {figures}", file=sys.stderr)
                            found.setdefault((name, seconds, approach), []).append(figures)
    print(table(found))


def _side(approach: str, broker: str, pool: str) -> Side:
    environment = "" if approach == "choreo" else approach
    promise = "once" if approach == "choreo" else "at least once"
    pool = pool if approach == "choreo" else ""
    return Side(approach, broker, pool, promise, MODULES[approach], environment, concurrency=CONCURRENCY)


def measure(side: Side, broker: Broker, store: Redis, seconds: float, count: int) -> Figures:
    """Fill a backlog, start a worker, and watch it."""
    broker.wipe()
    store.wipe()
    with tempfile.TemporaryDirectory(prefix="choreo-bench-") as directory:
        setting = Setting(
            side=side.name,
            module=side.module,
            approach=side.approach,
            pool=side.pool,
            concurrency=side.concurrency,
            prefetch=side.concurrency,
            broker_url=broker.url,
            redis_url=store.url,
            directory=directory,
            capacity=count,
        )
        setting.write()
        marks = Marks(directory, "waiter", count, create=True)
        awaits = {"CHOREO_BENCH_WAIT": str(seconds)}
        _fill(side, setting, count, awaits)
        worker = start(_command(side), setting, "worker.log", env=awaits)
        try:
            return _watch(worker, marks, count)
        except TimeoutError as error:
            raise SystemExit(f"{side.name}: {error}: {tail(Path(directory, 'worker.log'))}") from None
        finally:
            stop([worker])
            marks.close()


def _fill(side: Side, setting: Setting, count: int, awaits: dict[str, str]) -> None:
    environment = {**os.environ, **awaits, VARIABLE: str(Path(setting.directory, "setting.json"))}
    subprocess.run(
        [side.python, "-m", side.module, str(count)], check=True, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}
    )


def _command(side: Side) -> list[str]:
    if side.environment:
        return [side.python, "-m", "bench.worker", side.module, "waiter"]
    quiet = ["--without-gossip", "--without-mingle", "-l", "WARNING"]
    return [side.python, "-m", "celery", "-A", side.module, "worker", "-P", side.pool, "-c", str(CONCURRENCY), *quiet]


def _watch(worker: "subprocess.Popen[str]", marks: Marks, count: int) -> Figures:
    """The figures of the middle of the backlog. Raises `TimeoutError` if it is not handled in time."""
    deadline = time.monotonic() + PATIENCE
    reached: list[tuple[int, float, float]] = []
    for share in (0.1, 0.9):
        while (handled := marks.handled(0, count)) < share * count:
            if time.monotonic() > deadline or worker.poll() is not None:
                raise TimeoutError(f"{handled} of {count} events were handled")
            time.sleep(0.005)
        reached.append((handled, time.monotonic(), session_cpu(worker)))
    (first, began_at, cpu_before), (last, ended_at, cpu_after) = reached
    while marks.handled(0, count) < count:
        if time.monotonic() > deadline or worker.poll() is not None:
            raise TimeoutError(f"{marks.tally(0, count)}")
        time.sleep(0.01)
    events = last - first
    return Figures(events / (ended_at - began_at), (cpu_after - cpu_before) / events * 1e6)


def table(found: dict[tuple[str, float, str], list[Figures]]) -> str:
    """The figures, a row for each broker and work."""
    lines = [
        "| broker | a handler awaits | choreo | FastStream | ratio | choreo, CPU | FastStream, CPU |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for broker, seconds in dict.fromkeys(key[:2] for key in found):
        own, peer = (found.get((broker, seconds, side), []) for side in MODULES)
        ratios = [one.per_second / other.per_second for one, other in zip(own, peer, strict=False)]
        what = f"{seconds * 1000:.0f} ms" if seconds else "nothing"
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        rates = [f"{median(one.per_second for one in some):,.0f}/s" if some else "-" for some in (own, peer)]
        cpus = [f"{median(one.cpu for one in some):.0f} µs" if some else "-" for some in (own, peer)]
        lines.append(f"| {broker} | {what} | {rates[0]} | {rates[1]} | {ratio} | {cpus[0]} | {cpus[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
