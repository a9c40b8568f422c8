"""The strategy of a handler's task: how a worker gets from a message to the pool."""

import logging
from typing import Any

from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker.strategy import default, logger
from kombu.utils.imports import symbol_by_name

from choreo.broker.redis.consuming import is_choreos
from choreo.fast.in_process import InProcess, OnMessage
from choreo.fast.request import HandlerRequest
from choreo.fast.shortcut import Shortcut
from choreo.worker.worker_events import ServiceDispatcher


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> OnMessage:
    """
    Return the function that a worker calls with each delivery to this handler.

    That is `InProcess` in the pools solo and threads, else Celery's own. Celery's own is also used at log level DEBUG,
    at which Celery logs each run. With the solo pool and choreo's Redis transport the handler gets a `Shortcut` too.
    Celery finds this function as ``Task.Strategy``, and calls it each time the worker connects.
    """
    celerys: OnMessage = default(task, app, consumer, **options)
    app.runtime.lane.shortcuts.pop(task.name, None)
    is_usual = symbol_by_name(task.Request) is HandlerRequest and type(consumer.pool) in (SoloPool, ThreadPool)
    if logger.isEnabledFor(logging.DEBUG) or not is_usual:
        return celerys
    way = InProcess(task, app, consumer, celerys)
    events = consumer.event_dispatcher
    can_tell = events is None or isinstance(events, ServiceDispatcher)
    if type(consumer.pool) is SoloPool and can_tell and is_choreos(consumer.connection):
        app.runtime.lane.shortcuts[task.name] = Shortcut(way)
    return way
