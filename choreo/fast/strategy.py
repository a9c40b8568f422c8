"""The strategy of a handler's task: how a worker goes from a message to the pool. Celery calls it."""

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
    """What a worker does with the deliveries of a handler's task. Celery finds it as ``Task.Strategy``."""
    celerys: OnMessage = default(task, app, consumer, **options)
    app.runtime.lane.shortcuts.pop(task.name, None)
    is_usual = symbol_by_name(task.Request) is HandlerRequest and type(consumer.pool) in (SoloPool, ThreadPool)
    if logger.isEnabledFor(logging.INFO) or not is_usual:
        return celerys
    way = InProcess(task, app, consumer, celerys)
    events = consumer.event_dispatcher
    can_tell = events is None or isinstance(events, ServiceDispatcher)
    if type(consumer.pool) is SoloPool and can_tell and is_choreos(consumer.connection):
        app.runtime.lane.shortcuts[task.name] = Shortcut(way)
    return way
