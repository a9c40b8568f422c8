"""
The batches of one worker: collects the deliveries to batch handlers, and gives full batches to the pool.

It works in the worker's main process, between its consumer and its pool. Each event of a batch stays what it was: a
delivery of its own, with Celery's request, which `celery inspect reserved` lists, Flower shows, and the broker gets
back if the worker stops or is killed. One job of the pool runs all of them.

A batch begins when it is full, `choreo.Batch.wait` seconds after its first event came, or a little later if the pool is
busy. Until it begins, its members can be taken back: when their handler is paused, and when the worker stops or loses
its connection.

A delivery that came before, or is a retry, a probe or a revoked run, is no member of a batch. It runs alone.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Lock
from typing import Any
from weakref import ref

from billiard.einfo import ExceptionInfo
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.exceptions import TaskRevokedError
from celery.worker import state

from choreo.broker.incoming import source_of
from choreo.declare.batch import Batch
from choreo.declare.subscription import Subscription
from choreo.worker.batch_task import Answer, PoolBatch, Sent, run_members
from choreo.worker.request import SPECIAL

logger = logging.getLogger(__name__)

#: Callback: gives a request, or what stands in for one, to the pool.
Begin = Callable[[Any], object]


def batch_of(task: Any) -> Batch | None:
    """How the handler of this task is called in batches; None for every other task."""
    return getattr(getattr(task, "subscription", None), "batch", None)


def largest_of(subscriptions: Iterable[Subscription]) -> int:
    """The size of the largest batch of these handlers; 0 if none of them has any."""
    return max((one.batch.size for one in subscriptions if one.batch is not None), default=0)


class Batches:
    """
    Collects deliveries. ``consumer`` is Celery's, and ``begin`` its way to the pool.

    Celery calls it with each request that is to begin. Its methods are called in the worker's main thread.
    """

    def __init__(self, consumer: Any, begin: Begin) -> None:
        self._consumer, self._begin = consumer, begin
        #: Name of the handler → the batch that is not full yet.
        self._collecting: dict[str, Collected] = {}
        #: All batches that have not begun, as far as that is known.
        self._waiting: list[Collected] = []

    def __call__(self, request: Any) -> Any:
        """Begin a request, or collect it."""
        batch = batch_of(request.task)
        if batch is None or _must_run_alone(request):
            return self._begin(request)
        name = request.task.name
        collected = self._collecting.get(name)
        if collected is None:
            collected = self._collecting[name] = Collected(self._begin)
            collected.timer = self._consumer.timer.call_after(batch.wait, self._complete, (name, collected))
        collected.add(request)
        if len(collected.members) >= batch.size:
            self._complete(name, collected)
        return None

    def _complete(self, name: str, collected: "Collected") -> None:
        """No more events join this batch."""
        if self._collecting.get(name) is collected:
            del self._collecting[name]
            if collected.timer is not None:
                collected.timer.cancel()
            self._waiting = [other for other in self._waiting if not other.has_begun]
            self._waiting.append(collected)
            self._begin(collected)

    def held(self) -> Mapping[str, int]:
        """Queue → how many of its deliveries are being collected. A queue without any is left out."""
        collecting = [request for one in self._collecting.values() for request in one.members]
        return Counter(source_of(request.message) for request in collecting)

    def held_for(self) -> float:
        """The seconds until the first of them may go on, as far as it is known."""
        return 0.1 if self._collecting else math.inf

    def take_from(self, queue: str) -> Iterator[Any]:
        """Remove the deliveries from one queue that have not begun, and return their requests."""
        for collected in (*self._collecting.values(), *self._waiting):
            yield from collected.take_back(lambda request: source_of(request.message) == queue)
        self._tidy()

    def forget(self) -> None:
        """Begin nothing that waits: the worker stops, or the connection is gone with which it came."""
        for collected in (*self._collecting.values(), *self._waiting):
            collected.take_back(lambda _: True)
        self._tidy()

    def _tidy(self) -> None:
        for name, collected in list(self._collecting.items()):
            if not collected.members:
                del self._collecting[name]
                if collected.timer is not None:
                    collected.timer.cancel()
        self._waiting = [collected for collected in self._waiting if collected.members and not collected.has_begun]


class Collected:
    """
    One batch on its way to the pool, in place of a request. `members` are Celery's requests.

    Prefork: it begins when it is written to a child. Threads and solo: when a thread takes it.
    """

    def __init__(self, begin: Begin) -> None:
        self.members: list[Any] = []
        self.timer: Any = None
        self.has_begun = False
        #: What its members have in common: see `SafeRequest.batch`. Not this object: a cycle would keep their delivery
        #: tags alive.
        self.mark = object()
        self._begin = begin
        # Threads of the pool begin it, and the main thread takes members back.
        self._lock = Lock()

    @property
    def name(self) -> str:
        """The name of the handler; "" if no members are left."""
        return self.members[0].task.name if self.members else ""

    def add(self, request: Any) -> None:
        """Add a member."""
        request.batch = self.mark
        self.members.append(request)

    def take_back(self, wanted: Callable[[Any], bool]) -> list[Any]:
        """Remove those of the members that are wanted, unless the batch has begun. Returns them."""
        with self._lock:
            if self.has_begun:
                return []
            taken = [request for request in self.members if wanted(request)]
            self.members = [request for request in self.members if request not in taken]
            return taken

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        """
        Give the batch to the pool. Celery calls it, as it does for a request.

        Raises `TaskRevokedError` if no members are left: the place in the pool is free again.
        """
        self._drop_revoked()
        if not self.members:
            raise TaskRevokedError("no event of the batch is left")
        first = self.members[0]
        task = first.task
        call: dict[str, Any] = {"target": self._run_here}
        if isinstance(pool, PreforkPool):
            with self._lock:
                self.has_begun = True
            call = {"target": run_members, "args": (self._trace, task.name, self._sent())}
        job = pool.apply_async(
            **call,
            accept_callback=self._on_accepted,
            timeout_callback=self._on_timeout,
            callback=self._on_success,
            error_callback=self._on_failure,
            soft_timeout=task.soft_time_limit,
            timeout=task.time_limit,
            correlation_id=first.id,
        )
        for request in self.members:
            request._apply_result = None if job is None else ref(job)
        return job

    def _drop_revoked(self) -> None:
        """Let the runs that were revoked meanwhile begin on their own: they become dead letters."""
        for request in list(self.members):
            if request.id in state.revoked or request.expires or state.revoked_stamps:
                request.revoked()
                if _must_run_alone(request):
                    self.members.remove(request)
                    request.batch = None
                    self._begin(request)

    @property
    def _trace(self) -> Callable[..., Answer]:
        trace: Callable[..., Answer] = fast_trace_task if self.members[0].app.use_fast_trace_task else trace_task_ret
        return trace

    def _sent(self) -> list[Sent]:
        return [(request.id, request.request_dict, request.args[0]) for request in self.members]

    def _run_here(self) -> list[Answer]:
        """Run the batch in this process. Never raises an `Exception`: a pool of threads would tell nobody."""
        if not self.members:
            return []
        try:
            return PoolBatch(self.members[0].task, self._sent()).run(self._trace)
        except Exception:
            self._on_failure(ExceptionInfo())
            self.members = []
            return []

    # -- the pool's callbacks, for each member -------------------------------------------------------------------------

    def _on_accepted(self, pid: int, accepted: float) -> None:
        with self._lock:
            self.has_begun = True
        self._each(lambda request: request.on_accepted(pid, accepted))

    def _on_timeout(self, soft: bool, timeout: float) -> None:
        if soft:
            self.members[0].on_timeout(soft, timeout)
            return
        self._tell_alone()
        self._each(lambda request: request.on_timeout(soft, timeout))

    def _on_success(self, answers: list[Answer], **_: Any) -> None:
        found = dict(zip(map(id, self.members), answers, strict=True))
        self._each(lambda request: request.on_success(found[id(request)]))

    def _on_failure(self, error: Any, **_: Any) -> None:
        self._tell_alone()
        self._each(lambda request: request.on_failure(error))

    def _tell_alone(self) -> None:
        for request in self.members:
            request.is_alone = len(self.members) == 1

    def _each(self, step: Callable[[Any], object]) -> None:
        """Take a step with each member, whatever happens with the one before."""
        for request in list(self.members):
            try:
                step(request)
            except Exception:
                logger.exception("%s: a step of its batch failed", request.humaninfo())


def _must_run_alone(request: Any) -> bool:
    """True for a delivery that came before, a retry, a probe, and a revoked run."""
    facts = request.request_dict
    return bool(facts.get("retries") or facts.get(SPECIAL) or (request.delivery_info or {}).get("redelivered"))
