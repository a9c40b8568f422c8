"""Deliveries that a worker has received, and its pool has not begun: they can be taken back."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty
from typing import Any

import amqp
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker import state

from choreo.broker.incoming import source_of
from choreo.broker.workload import listed


def take_back(consumer: Any, queue: str) -> list[Any]:
    """
    Take the deliveries from this queue back that wait for a rate, or for a free place in the pool.

    Returns their requests, which never begin. ``consumer`` is Celery's. Call it in the worker's main thread.
    """
    taken = [*consumer.rates.take_from(queue), *consumer.batches.take_from(queue)]
    waiting = {request for request in listed(state.reserved_requests) if _is_from(request, queue)}
    taken += _from_semaphore(getattr(consumer.controller, "semaphore", None), waiting)
    lane = consumer.app.runtime.lane
    if lane is not None:
        taken += lane.coroutines.take(waiting)
    if isinstance(consumer.pool, ThreadPool):
        taken += _from_executor(consumer.pool.executor, waiting)
    for request in taken:
        state.task_ready(request)
    if lane is not None and isinstance(consumer.task_consumer.channel, amqp.Channel):
        lane.release(taken)
    return taken


def _is_from(request: Any, queue: str) -> bool:
    # Of a run that has begun the fast lane would have to make the message.
    return request not in state.active_requests and source_of(request.message) == queue


def _from_semaphore(semaphore: Any, wanted: set[Any]) -> Iterator[Any]:
    """The requests that wait until a child of the prefork pool is free."""
    waiting = getattr(semaphore, "_waiting", None)
    if not waiting:
        return
    kept = []
    while waiting:
        entry = waiting.popleft()
        request = next((one for one in entry[1] if one in wanted), None)
        if request is None:
            kept.append(entry)
        else:
            yield request
    waiting.extend(kept)


def _from_executor(executor: ThreadPoolExecutor, wanted: set[Any]) -> Iterator[Any]:
    """The requests that wait for a free thread."""
    # The queue cannot be searched. A thread that finds it empty meanwhile waits for what is put back.
    jobs: Any = executor._work_queue
    kept = []
    try:
        while True:
            kept.append(jobs.get_nowait())
    except Empty:
        pass
    for job in kept:
        request = None if job is None else next((one for one in requests_in(job) if one in wanted), None)
        if request is not None and job.future.cancel():
            yield request
        else:
            jobs.put(job)


def requests_in(job: Any) -> Iterable[Any]:
    """What may be the request of a job: Celery calls a method of it at the end, the fast lane calls with it."""
    # Python 3.14 has the three together.
    _, args, _ = job.task if hasattr(job, "task") else (job.fn, job.args, job.kwargs)
    _, own, _, *callbacks = args
    return [*(own or ())[:1], *(getattr(callback, "__self__", None) for callback in callbacks)]
