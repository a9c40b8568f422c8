"""
Kills one worker in the middle of its backlog, starts another, and counts the lost events.

This measures a promise, not speed. The worker dies by SIGKILL while its first handler runs and its prefetch is full.
Each side that has such a setting returns the events of a dead worker after a few seconds.
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
#: Seconds after which the events of a dead worker should be redelivered.
PATIENCE = 4
#: After so many seconds without an event, the missing events count as not back.
GIVE_UP = 15.0
#: The service whose worker is killed.
VICTIM = "restaurant"
#: A backlog of several prefetches, on every side.
EVENTS = 600


def run(side: Side, broker: Broker, store: Redis) -> Row:
    """Publish a backlog, kill one of four workers, start it again, and return the counts."""
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
    # Meanwhile the workers fill their prefetch.
    time.sleep(1.0)
    kill(session.workers.pop(VICTIM))
    killed = time.monotonic()
    session.gate.open()
    session.start_worker(VICTIM)
    session.wait(story.VIEWED, first, count, patience=GIVE_UP)
    found = session.tally(story.VIEWED, first, count)
    # Events that kombu still keeps for the dead worker are late, not lost.
    held = min(found.lost, _held(broker))
    row.tally = replace(found, lost=found.lost - held)
    row.figures["not_back"] = held
    if not found.lost:
        row.figures["all_handled_after_s"] = max(0.0, session.last(story.VIEWED, first, count) - killed)
    return row


def _held(broker: Broker) -> int:
    return int(broker.client.hlen("unacked")) if isinstance(broker, Redis) else 0
