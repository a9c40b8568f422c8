"""The strategy of a handler's task: how a worker gets from a message to the pool."""

import logging
from typing import Any

from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker.strategy import default, logger
from kombu.utils.imports import symbol_by_name

from choreo.broker.rabbitmq.connection import RabbitConnection
from choreo.broker.redis.consuming import is_choreos
from choreo.fast.bundles import PooledShortcut
from choreo.fast.in_process import InProcess, OnMessage
from choreo.fast.request import HandlerRequest
from choreo.fast.shortcut import Shortcut
from choreo.worker.coroutines import is_async, places_of
from choreo.worker.worker_events import ServiceDispatcher


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> OnMessage:
    """
    Return the function that a worker calls with each delivery to this handler.

    That is `InProcess` in the pools solo and threads, else Celery's own. Celery's own is also used at log level DEBUG,
    at which Celery logs each run. In these two pools an ``async def`` handler gets a place for its coroutine, and no
    thread: see `choreo.fast.coroutines`. Every other handler gets a `Shortcut` too with the solo pool, and every
    handler a `PooledShortcut` with the prefork pool on Redis, unless ``choreo_bundles`` is False.
    Celery finds this function as ``Task.Strategy``, and calls it each time the worker connects.
    """
    celerys: OnMessage = default(task, app, consumer, **options)
    app.runtime.lane.shortcuts.pop(task.name, None)
    app.runtime.lane.direct.discard(task.name)
    pool = type(consumer.pool)
    is_usual = symbol_by_name(task.Request) is HandlerRequest and pool in (SoloPool, ThreadPool, PreforkPool)
    if logger.isEnabledFor(logging.DEBUG) or not is_usual:
        return celerys
    way = InProcess(task, app, consumer, celerys)
    if is_async(task) and pool is not PreforkPool:
        app.runtime.lane.coroutines.limit = places_of(consumer)
        return way
    events = consumer.event_dispatcher
    can_tell = events is None or isinstance(events, ServiceDispatcher)
    if pool is PreforkPool:
        bundles = app.runtime.lane.bundles_of(consumer) if app.runtime.has_bundles else None
        if bundles is not None and can_tell and is_choreos(consumer.connection):
            app.runtime.lane.shortcuts[task.name] = PooledShortcut(way, bundles)
        return celerys
    app.runtime.lane.direct.add(task.name)
    if type(consumer.pool) is SoloPool and can_tell and _takes(consumer.connection):
        app.runtime.lane.shortcuts[task.name] = Shortcut(way)
    return way


def _takes(connection: Any) -> bool:
    """True if the channels of a kombu connection take messages before they deliver them."""
    return is_choreos(connection) or getattr(connection.transport, "Connection", None) is RabbitConnection
