"""
A run of a handler in a child of the prefork pool, as the worker knows it: a message that was taken, and not read.

A run that ends without an error never becomes a request of Celery's. It is in Celery's worker state (`celery inspect`),
and its worker events are those of any run. Celery handles failures, with the request that it would have made.
"""

from __future__ import annotations

import pickle
import weakref
from time import time
from typing import Any, Protocol

from celery.worker import state

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.redis.receipt import CERTAIN_UNTIL, CLAIM
from choreo.broker.redis.taken import Taken
from choreo.cached import cached_property
from choreo.fast.child import Answer, Success
from choreo.fast.in_process import InProcess
from choreo.worker.worker_events import received_facts


class RunsTogether(Protocol):
    """The runs that a child has got as one job: a `Bundle`."""

    #: The child's process id; None before it has begun.
    pid: int | None
    #: The run that a signal was to end.
    target: PooledRun | None

    def in_hand(self) -> PooledRun | None:
        """The run that the child has begun and that has not ended, as far as the worker knows."""

    def withdraw(self, run: PooledRun) -> None:
        """Take one run back if it has not begun, and deliver its message the usual way."""


class WaitingMessage:
    """The message of a `PooledRun`, in the place of kombu's. That one is made when an attribute of it is read."""

    def __init__(self, run: PooledRun) -> None:
        # Weak: a run that Celery forgets has to be gone at once, since its message returns to the queue only then.
        self._run = weakref.ref(run)
        taken = run.taken
        #: Set by the channel, when it notes the message: a `Tag`.
        self.delivery_tag: str = taken.tag
        self.choreo_queue, self.channel, self.headers = taken.queue, run.channel, {"task": run.name}
        self.delivery_info = {CERTAIN_UNTIL: taken.certain_until, **({CLAIM: taken.claim} if taken.claim else {})}

    def __getattr__(self, name: str) -> Any:
        if name in ("_run", "delivery_tag"):
            raise AttributeError(name)
        run = self._run()
        if run is None:
            raise AttributeError(f"the run of this message was forgotten: it has no {name} any more")
        return getattr(run.request.message, name)


class PooledRun:
    """
    One run of a handler in a child, in the place of Celery's request in Celery's worker state.

    It has the attributes that the worker reads at every run. All others come from the request that Celery would have
    made, which is made at the first such access.
    """

    def __init__(self, way: InProcess, channel: Any, taken: Taken, run_id: str) -> None:
        self.id, self.name = run_id, way.task.name
        self.way, self.channel, self.taken = way, channel, taken
        self._bundle: weakref.ref[RunsTogether] | None = None
        self.index = 0
        #: The child's process id, and the Unix time at which it began; None before.
        self.worker_pid: int | None = None
        self.time_start: float | None = None
        #: A weak reference to the pool's job, as in Celery's request.
        self._apply_result: Any = None
        self.message: Any = WaitingMessage(self)
        self._received = time()
        self._is_received_told = self._is_started_told = False

    @cached_property
    def request(self) -> Any:
        """Celery's request for this run."""
        message = self.channel.message_of(self.taken)
        self.way.queue.prepare(message)
        # The tag itself: the transport watches this object.
        message.delivery_tag = self.message.delivery_tag
        self.message = message
        request = self.way.request(message, message.ack_log_error, message.reject_log_error)
        request.worker_pid, request.time_start = self.worker_pid, self.time_start
        request._apply_result = self._apply_result
        return request

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _OWN:  # `copy`, for one, asks an object that has none of them yet
            raise AttributeError(name)
        return getattr(self.request, name)

    @property
    def bundle(self) -> RunsTogether | None:
        """The bundle in which the pool has it; None if it waits for a child, or has ended."""
        return None if self._bundle is None else self._bundle()

    # -- its beginning -------------------------------------------------------------------------------------------------

    def sent(self, bundle: RunsTogether, index: int, job: Any) -> None:
        """Note that the pool has it, as this run of a bundle."""
        self._bundle, self.index = weakref.ref(bundle), index
        self._has_job(weakref.ref(job) if job is not None else None)

    def taken_back(self) -> None:
        """Note that the pool does not have it any more, and has not begun it."""
        self._bundle = None
        self._has_job(None)

    def _has_job(self, job: weakref.ref[Any] | None) -> None:
        self._apply_result = job
        if "request" in vars(self):
            self.request._apply_result = job

    def begun(self, pid: int | None, began: float) -> None:
        """Note that a child has begun it, at this Unix time."""
        if self.time_start is not None:
            return
        self.worker_pid, self.time_start = pid, began
        if "request" in vars(self):
            self.request.worker_pid, self.request.time_start = pid, began
        state.task_accepted(self)

    def received_before(self, moment: float) -> bool:
        """True if it was received before this Unix time."""
        return self._received < moment

    def tell_received(self) -> None:
        """Send the worker event of its reception, if that was not sent yet."""
        if self._is_received_told or self.way.events is None:
            return
        self._is_received_told = True
        facts = {"name": self.name, "args": self.argsrepr, "root_id": self.root_id, "parent_id": self.parent_id}
        self.way.tell("task-received", timestamp=self._received, uuid=self.id, **received_facts(**facts))

    def tell_started(self) -> None:
        """Send the worker events of its beginning, if they were not sent yet."""
        self.tell_received()
        if not self._is_started_told and self.time_start is not None:
            self._is_started_told = True
            self.way.tell("task-started", timestamp=self.time_start, uuid=self.id)

    # -- its end -------------------------------------------------------------------------------------------------------

    def end(self, answer: Answer) -> None:
        """End it with the child's answer: ack the message, tell of the end, or let Celery report the failure."""
        if answer is None:
            self.leave()
        elif isinstance(answer, Success):
            self._succeed(answer)
        else:
            self._end_by_celery(pickle.loads(answer))

    def _succeed(self, success: Success) -> None:
        self.begun(self.bundle.pid if self.bundle else None, success.began)
        state.task_ready(self)
        qos, tag = self.channel.qos, self.taken.tag
        if success.is_acked:
            qos.settled(tag)
        else:
            qos.ack(tag)
        events = self.way.events
        if events is None:
            return
        if success.about is not None and not self._is_received_told:
            times = self._received, success.began
            events.send_run(self.id, self.name, *success.about, *times, success.shown, success.took)
        else:
            self.tell_started()
            self.way.tell("task-succeeded", uuid=self.id, result=success.shown, runtime=success.took)

    def _end_by_celery(self, outcome: Any) -> None:
        self.begun(self.bundle.pid if self.bundle else None, time())
        self.tell_started()
        try:
            self.request.on_success(outcome)
        finally:
            state.task_ready(self)

    def fail(self, failure: Any) -> None:
        """Let Celery report that the child has ended, or could not answer. ``failure`` is an `ExceptionInfo`."""
        self.tell_started()
        try:
            self.request.on_failure(failure)
        finally:
            state.task_ready(self)

    def give_back(self) -> None:
        """Return the message to its queue, as if it had not begun."""
        state.task_ready(self)
        self.channel.qos.reject(self.taken.tag, UNCOUNTED)

    def leave(self) -> None:
        """Deliver the message the usual way, as nothing was done with it."""
        state.task_ready(self)
        self.channel.deliver_usually(self.taken)

    # -- by remote control ---------------------------------------------------------------------------------------------

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """
        Send the signal to the child if it runs this very run.

        A run that waits in a bundle leaves it, so that it becomes a dead letter as any other that was revoked before it
        began. A run that has ended is left alone.
        """
        if self._is_in_hand():
            self.request.terminate(pool, signal)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """The same, when the worker has lost its connection and shall not go on with this run."""
        if self._is_in_hand():
            self.request.cancel(pool, signal, emit_retry)

    def _is_in_hand(self) -> bool:
        bundle = self.bundle
        if bundle is None:
            return False
        if bundle.in_hand() is self:
            bundle.target = self
            return True
        bundle.withdraw(self)
        return False


_OWN = frozenset("id name request way channel taken bundle _bundle index worker_pid time_start message".split())
