"""
What each service writes down about itself, for the ledger to read.

A line is one `write` to a file that was opened for appending: it is there whole or not at all, whoever is killed, and
many processes may write to one file.

    run       a handler began            effect   it came to its end
    delivery  a worker received a copy
"""

import faulthandler
import json
import os
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from celery.signals import worker_process_init
from celery.worker.strategy import default

from choreo import Context, Envelope
from choreo.fast import shortcut
from choreo.fast.shortcut import Run
from choreo.fast.strategy import strategy
from choreo.fast.task import FastHandlerTask
from choreo.worker.handler import HandlerTask


@cache
def _descriptor(name: str, pid: int) -> int:
    return os.open(Path(os.environ["CHAOS_BOOKS"], f"{name}.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(name: str, kind: str, **facts: Any) -> None:
    """Append a line to the book of a service."""
    line = {"kind": kind, "at": time.time(), "pid": os.getpid(), **facts}
    os.write(_descriptor(name, os.getpid()), json.dumps(line).encode() + b"\n")


def work(context: Context, *envelopes: Envelope, seconds: float = 0.0) -> None:
    """What every handler does: write down that it runs and with what, work for a while, write down the effect."""
    about = {
        "handler": context.handler,
        "subject": context.subject,
        "key": context.idempotency_key,
        "events": [[envelope.id, envelope.type, json.dumps(envelope.data, sort_keys=True)] for envelope in envelopes],
    }
    write(context.service, "run", attempt=context.attempt, **about)
    time.sleep(seconds * float(os.environ.get("CHAOS_SLOWNESS", "1")))
    write(context.service, "effect", **about)


# Not by Celery's signal `task_received`: where that is listened to, choreo leaves its shorter ways to a handler.
def note_deliveries() -> None:
    """Write down each delivery that reaches this process, on whichever way it goes to its handler."""
    accept = shortcut._accept

    def taken(run: Run) -> None:
        note_delivery(run.name, run._event.envelope.to_wire(), shortcut=True)
        accept(run)

    shortcut._accept = taken
    # Celery's strategy with the fast lane off, and its own with the lane on.
    HandlerTask.Strategy, FastHandlerTask.Strategy = f"{__name__}:noting", f"{__name__}:noting_fast"


def noting(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """The strategy of a handler's task, which writes down what it is given."""
    return _noting(task, default(task, app, consumer, **options))


def noting_fast(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """The same in the fast lane."""
    return _noting(task, strategy(task, app, consumer, **options))


def _noting(task: Any, usual: Any) -> Any:
    def received(message: Any, *args: Any) -> Any:
        (argument,), *_ = json.loads(message.body)
        note_delivery(task.name, json.loads(argument) if isinstance(argument, str) else argument)
        return usual(message, *args)

    return received


def note_delivery(handler: str, wire: dict[str, Any], shortcut: bool = False) -> None:
    event = [wire["id"], wire["type"], json.dumps(wire["data"], sort_keys=True)]
    about = {"handler": handler, "subject": wire["subject"], "events": [event], "key": ""}
    write(handler.partition(".")[0], "delivery", shortcut=shortcut, **about)


@worker_process_init.connect(weak=False)
def show_stacks_when_asked(**_: Any) -> None:
    """SIGUSR2 makes a process of a pool write its stacks into the log; Celery does that on SIGUSR1, outside pools."""
    faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)


if "CHAOS_BOOKS" in os.environ:  # in a process of a service, not in that of the tests
    note_deliveries()
