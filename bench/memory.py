"""
Measures the bytes in Redis per handled event (in the inbox) and per pending join, and the CPU time as they grow.

A real worker handles the events, or receives the first part of each join. Memory is the `used_memory` of Redis before
and after, while nothing else runs.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

from bench import story
from bench.brokers import Redis
from bench.processes import SideError
from bench.session import Row, Session, Size
from bench.side import Side

#: The number of events to publish at a time. Small, so that the queue takes little memory.
STEP = 2000


def run(side: Side, broker: Redis, counts: list[int], seconds: float) -> Iterator[Row]:
    """Yield the memory per event, then per join, at each of these counts. Each of the two takes at most ``seconds``."""
    yield from _fill(side, broker, "handled event", "order.viewed", counts, seconds)
    yield from _fill(side, broker, "pending join", "item.packed", counts, seconds)


def _fill(side: Side, broker: Redis, what: str, kind: str, counts: list[int], seconds: float) -> Iterator[Row]:
    broker.wipe()
    directory = tempfile.mkdtemp(prefix="choreo-bench-")
    session = None
    try:
        size = Size(most=max(counts), quiet_seconds=0)
        session = Session(replace(side, services=("driver",)), broker, broker, size, directory)
        session.start_workers()
        session.warm_up({"pair": (story.SHIPPED,)})
        _quiet(broker)
        # The buffers of the clients count before and after, so they cancel out.
        before, done, deadline, started = broker.memory(), 0, time.monotonic() + seconds, time.monotonic()
        for count in sorted(counts):
            reached, spent = done, dict[str, float]()
            with session.costs(spent):
                while done < count and time.monotonic() < deadline:
                    step = min(STEP, count - done)
                    session.publish(kind, session.take_numbers(step), step, bulk=True)
                    done += step
                    _drained(session, broker)
            _quiet(broker)
            if done == reached:
                return
            row = Row(f"memory per {what}, {done:,}")
            row.figures["bytes"] = (broker.memory() - before) / done
            # Only the events since the last count, so that the last of a million compare with the first thousands.
            row.figures["per_second"] = (done - reached) / (time.monotonic() - started)
            row.figures |= {f"{name}_us": cpu / (done - reached) * 1e6 for name, cpu in spent.items()}
            yield row
            started = time.monotonic()
    except SideError as error:
        yield Row(f"memory per {what}", problem=str(error))
    finally:
        if session is not None:
            session.close()
        shutil.rmtree(directory, ignore_errors=True)
        broker.wipe()


def _drained(session: Session, broker: Redis, patience: float = 60.0) -> None:
    """Wait until the queues and the in flight records are empty. Raises `SideError` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while _waiting(broker):
        session.check_workers()
        if time.monotonic() > deadline:
            raise SideError("the worker does not empty its queue")
        time.sleep(0.02)


def _waiting(broker: Redis) -> int:
    queues = [f"driver.{handler}" for handler in ("view", "ship")]
    with broker.client.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.llen(queue)
        for owner in broker.client.zrange("_choreo.consumers", 0, -1):
            pipeline.hlen(b"_choreo.inflight." + owner)
        return sum(pipeline.execute())


def _quiet(broker: Redis) -> None:
    """Wait until the used memory is stable."""
    for _ in range(20):
        before = broker.memory()
        time.sleep(0.25)
        if abs(broker.memory() - before) < 20_000:
            return
