"""From a delivery to its handler, in a worker whose pool runs in the worker's own process (solo, threads).

Celery checks each delivery for everything that any task may have: an ETA, a rate limit, a message of protocol 1, a
result, a callback. A handler's task has none of these, yet Celery's strategy, request, pool and tracer check for them.
Only the necessary steps are here: the request, the state that `celery inspect` shows, worker events, the pool, the run
and the ack. Celery does the rest: failures, revoked tasks, rate limits, and every run that a signal receiver, a log
line or a foreign tracer observes.
"""

import os
from collections.abc import Callable
from time import monotonic, time
from typing import Any

from celery.app.task import Context
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.concurrency.base import apply_target
from celery.signals import task_received
from celery.worker import state
from celery.worker.request import create_request_cls

from choreo.fast.request import HandlerRequest
from choreo.fast.tracer import Failed, attempt, is_listened_to, shown
from choreo.worker.coroutines import is_async

#: The function that a strategy returns. Callback: gets message, body, ack, reject, callbacks.
OnMessage = Callable[[Any, Any, Any, Any, Any], Any]


class InProcess:
    """
    The function that a worker calls with each delivery to one handler: see `choreo.fast.strategy`.

    ``consumer`` is Celery's; the object lives as long as the consumer's connection. ``celerys`` is the function of
    Celery's own strategy, which gets every delivery that is not plain. A `Shortcut` uses the other methods.
    """

    def __init__(self, task: Any, app: Any, consumer: Any, celerys: OnMessage) -> None:
        self.task, self._app, self._consumer, self._celerys = task, app, consumer, celerys
        self._hostname, self._errors = consumer.hostname, consumer.connection_errors
        self._apply, self._pid = consumer.pool.on_apply, os.getpid()
        self._trace = fast_trace_task if app.use_fast_trace_task else trace_task_ret
        eventer = self._eventer = consumer.event_dispatcher
        #: The dispatcher of worker events; None if this task sends none.
        self.events: Any = eventer if eventer and task.send_events else None
        #: Sends one worker event, or does nothing.
        self.tell: Callable[..., object] = self.events.send if self.events else _nothing
        self.queue = app.amqp.queues[app.runtime.queue_of(task.name)]
        #: The runs of `async def` handlers; None for a plain one, which has a thread of the pool.
        self._coroutines = app.runtime.lane.coroutines if is_async(task) else None
        self._request = create_request_cls(HandlerRequest, task, consumer.pool, consumer.hostname, eventer, app=app)

    def __call__(self, message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        if not self.is_clear or not self._is_plain(message):
            return self._celerys(message, body, ack, reject, callbacks)
        request = self.request(message, ack, reject)
        self.tell(
            "task-received",
            uuid=request.id,
            name=request.name,
            args=request.argsrepr,
            kwargs=request.kwargsrepr,
            root_id=request.root_id,
            parent_id=request.parent_id,
            retries=message.headers.get("retries", 0),
            eta=None,
            expires=None,
        )
        state.task_reserved(request)
        if self._coroutines is not None:
            self._coroutines.submit(self, request)
        else:
            self._apply(self._run, (request,), callback=_nothing)
        return None

    @property
    def is_clear(self) -> bool:
        """True if nothing observes or limits this handler's runs just now, so that they may take this way."""
        consumer = self._consumer
        is_limited = not consumer.disable_rate_limits and consumer.task_buckets[self.task.name]
        is_watched = consumer.on_task_message or task_received.receivers or is_listened_to()
        # After a lost connection Celery counts each ack, until its prefetch is as large as before.
        is_recovering = not getattr(consumer, "_maximum_prefetch_restored", False)
        return bool(self.task.has_short_tracer and not is_limited and not is_watched and not is_recovering)

    def _is_plain(self, message: Any) -> bool:
        """
        True if the message comes from the handler's queue, which has checked it, and is not revoked.

        A program can also send the handler's task, like any task, to the service's queue for ordinary tasks.
        """
        is_events = message.delivery_info.get("routing_key") == self.queue.name
        return is_events and message.headers["id"] not in state.revoked

    def request(self, message: Any, ack: Any, reject: Any) -> Any:
        """The request that Celery would make for a message."""
        return self._request(
            message,
            on_ack=ack,
            on_reject=reject,
            app=self._app,
            hostname=self._hostname,
            eventer=self._eventer,
            task=self.task,
            connection_errors=self._errors,
            body=message.body,
            headers=message.headers,
        )

    def accept(self, request: Any, began: float) -> None:
        """Note in the request that this process runs it since ``began`` (a Unix time). Sends no worker event."""
        request.worker_pid, request.time_start = self._pid, began
        request.request_dict["is_eager"] = False

    def _run(self, request: Any) -> None:
        self.accept(request, time())
        context = Context(request.request_dict, args=request.args, called_directly=False, kwargs=request.kwargs)
        state.task_accepted(request)
        request.send_event("task-started")
        self.run(request, context, request.args, request.kwargs)

    def run(self, request: Any, context: Context, args: Any, kwargs: Any) -> None:
        """
        Run an accepted request, ack it, and tell of its end. ``request`` is Celery's, or a `Run`.

        If the handler fails, Celery reports that, and acks or rejects the delivery.
        """
        task = self.task
        began = monotonic()
        answer, error = attempt(task, context, args, kwargs, here_again=True)
        self.end(request, answer, error, monotonic() - began)

    def end(self, request: Any, answer: Any, error: BaseException | None, took: float) -> None:
        """Ack an accepted request whose run has ended, and tell of that; let Celery do it if there is an error."""
        if error is not None:
            self._fail(request, error)
            return
        state.task_ready(request)
        request.acknowledge()
        # By the request and not by `tell`, as the reception was: the connection may be another one by now.
        request.send_event("task-succeeded", result=shown(self.task, answer), runtime=took)

    def _fail(self, request: Any, error: BaseException) -> None:
        """Let Celery report the error that the handler raised, and ack or reject the delivery."""
        body: Any = [Failed.instead_of(request.args[0], error)], {}, {}
        call = self.task.name, request.id, request.request_dict, body, None, None
        apply_target(self._trace, call, callback=request.on_success)


def _nothing(*_: Any, **__: Any) -> None:
    """Take any arguments, and do nothing."""
