"""
What happens to the events when one worker is killed in the middle of its backlog, and another takes its place.

Not a figure of speed: it shows what a row's promise is worth. The worker dies by SIGKILL while its first handler runs
and its prefetch is full; then the others go on. Each side is told to give a dead worker's events back after a few
seconds, where it can be told.
"""

import shutil
import tempfile
import time
from dataclasses import replace

from bench import story
from bench.brokers import Broker, Redis
from bench.processes import SideError, kill
from bench.session import READY_SECONDS, Row, Session, Size
from bench.side import Side

SCENARIO = "killed worker"
#: Seconds after which a dead worker's events should come back.
PATIENCE = 4
#: Without an event for so long, the rest counts as not back.
GIVE_UP = 15.0
VICTIM = "restaurant"
#: A backlog of several prefetches, on every side.
EVENTS = 600


def run(side: Side, broker: Broker, store: Redis) -> Row:
    """Publish a backlog, kill one of four workers part of the way through, start it again, and count."""
    directory = tempfile.mkdtemp(prefix="choreo-bench-")
    broker.wipe()
    store.wipe()
    session = None
    try:
        session = Session(replace(side, patience=PATIENCE), broker, store, Size(most=EVENTS), directory)
        session.publisher.ask("prepare")
        return _run(session, broker)
    except SideError as error:
        return Row(SCENARIO, problem=str(error))
    finally:
        if session is not None:
            session.close()
        shutil.rmtree(directory, ignore_errors=True)


def _run(session: Session, broker: Broker) -> Row:
    row, first = Row(SCENARIO), session.take_numbers(EVENTS)
    session.gate.close()
    count = session.publish("order.viewed", first, EVENTS)["count"]
    session.start_workers()
    deadline = time.monotonic() + READY_SECONDS
    while session.gate.waiting() < len(session.side.services):
        session.check_workers()
        if time.monotonic() > deadline:
            raise SideError("not every worker began")
        time.sleep(0.01)
    # The prefetch fills up behind the handlers that wait.
    time.sleep(1.0)
    kill(session.workers.pop(VICTIM))
    killed = time.monotonic()
    session.gate.open()
    session.start_worker(VICTIM)
    session.wait(story.VIEWED, first, count, patience=GIVE_UP)
    found = session.tally(story.VIEWED, first, count)
    # What kombu still holds for the dead worker is late, not lost.
    held = min(found.lost, _held(broker))
    row.tally = replace(found, lost=found.lost - held)
    row.figures["not_back"] = held
    if not found.lost:
        row.figures["all_handled_after_s"] = max(0.0, session.last(story.VIEWED, first, count) - killed)
    return row


def _held(broker: Broker) -> int:
    return int(broker.client.hlen("unacked")) if isinstance(broker, Redis) else 0
