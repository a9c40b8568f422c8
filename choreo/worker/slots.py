"""The deliveries of a worker that wait for a slot of their handler (``concurrency=``).

They wait as those with a rate limit do: unacked, in a bucket, one for each handler, and not in the pool. So they hold
up no other handler, no attempt is counted, and a stopping worker gives them back.
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import RLock
from time import monotonic
from typing import Any

from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state

from choreo.broker.workload import is_stopping
from choreo.errors import StoreError
from choreo.events.ids import new_id
from choreo.store.slots import Slot

logger = logging.getLogger(__name__)

#: Seconds after which a worker that waits for a slot asks again. It asks at once when a run of its own has ended.
ASK_SECONDS = 0.05
#: Seconds after which it asks again while the store is away.
AWAY_SECONDS = 1.0
#: The field of a request with the token of its slot, for the process that runs it.
SLOT = "choreo_slot"


class SlotBucket:
    """
    The bucket of one handler with a concurrency, in the place of Celery's `TokenBucket`.

    ``rate`` is Celery's bucket for the handler's rate limit; None without one.
    """

    def __init__(self, handler: str, limit: int, rate: Any = None) -> None:
        self.handler, self.limit, self.rate = handler, limit, rate
        #: The deliveries that wait: Celery's requests, and the tokens that they take from ``rate``.
        self.contents: deque[tuple[Any, int]] = deque()
        #: When the worker asks again, by `monotonic`; 0: it does not wait.
        self.asks_at = 0.0

    def add(self, item: tuple[Any, int]) -> None:
        """Let a delivery wait."""
        self.contents.append(item)

    def pop(self) -> tuple[Any, int]:
        """Remove the delivery that has waited for longest."""
        return self.contents.popleft()

    def clear_pending(self) -> None:
        """Forget the deliveries: their connection is lost."""
        self.contents.clear()

    def expected_time(self, tokens: int = 1) -> float:
        """Seconds until a delivery may begin by the rate of the handler."""
        return float(self.rate.expected_time(tokens)) if self.rate else 0.0


class Slots:
    """Takes slots for the deliveries of one worker, and frees them. ``consumer`` is Celery's."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        #: This worker, among those that wait for a slot.
        self._name = f"{consumer.hostname}/{new_id()}"
        #: Slot → its request, and its bucket.
        self._taken: dict[Slot, tuple[Any, SlotBucket]] = {}
        self._is_away = False
        # Threads of a pool call `_freed`.
        self._lock = RLock()

    def bucket_for(self, task: Any, rate: Any) -> Any:
        """The bucket of a handler: `SlotBucket` if it has a concurrency, else ``rate``."""
        limit = getattr(getattr(task, "subscription", None), "concurrency", None)
        return rate if limit is None else SlotBucket(task.name, limit, rate)

    def serve(self, bucket: SlotBucket) -> None:
        """Begin the deliveries of a bucket for which there are slots, in order."""
        with self._lock:
            bucket.asks_at = 0.0
            while bucket.contents and not is_stopping():
                wait = bucket.expected_time(bucket.contents[0][1])
                slot = self._take(bucket) if wait <= 0 else None
                if slot is None:
                    self._ask_again(bucket, max(wait, AWAY_SECONDS if self._is_away else ASK_SECONDS))
                    return
                request, tokens = bucket.pop()
                if bucket.rate:
                    bucket.rate.can_consume(tokens)
                self._begin(request, slot, bucket)

    def serve_soon(self, bucket: SlotBucket) -> None:
        """As `serve`; nothing while the worker waits to ask again."""
        if bucket.asks_at < monotonic():
            self.serve(bucket)

    def _ask_again(self, bucket: SlotBucket, seconds: float) -> None:
        bucket.asks_at = at = monotonic() + seconds

        def ask() -> None:
            if bucket.asks_at == at:  # else it has asked meanwhile
                self.serve(bucket)

        self._consumer.timer.call_after(seconds, ask)

    def _take(self, bucket: SlotBucket) -> Slot | None:
        self._free_ended()
        slot = Slot(bucket.handler, new_id())
        try:
            is_taken = self._store.take_slot(slot, bucket.limit, self._name)
        except StoreError as error:
            if not self._is_away:
                logger.warning("events that wait for a slot of %s go on waiting: %s", bucket.handler, error)
            self._is_away = True
            return None
        self._is_away = False
        return slot if is_taken else None

    def _begin(self, request: Any, slot: Slot, bucket: SlotBucket) -> None:
        self._taken[slot] = request, bucket
        self._leases.hold(slot)
        request.request_dict[SLOT] = slot.token
        # Celery acks or rejects at the end of each run, and a class of its own would cost every other handler.
        request.acknowledge = partial(self._end, request.acknowledge, slot)
        request.reject = partial(self._end, request.reject, slot)
        state.task_reserved(request)
        self._consumer.on_task_request(request)

    def _end(self, ending: Callable[..., Any], slot: Slot, *args: Any, **options: Any) -> Any:
        try:
            return ending(*args, **options)
        finally:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        with self._lock:
            known = self._taken.pop(slot, None)
        if known is None:
            return
        self._leases.drop(slot)
        try:
            self._store.free_slot(slot)
        except StoreError as error:
            logger.warning("a slot of %s is free when its lease has run out: %s", slot.handler, error)
            return
        bucket = known[1]
        if not bucket.contents:
            return
        if isinstance(self._consumer.pool, SoloPool):
            # The next handler must not run inside of this one's end.
            self._consumer.call_soon(self.serve, bucket)
        else:
            self.serve(bucket)

    def _free_ended(self) -> None:
        """Free the slots of runs that Celery has forgotten, such as when a connection was lost before they began."""
        for slot, (request, _) in list(self._taken.items()):
            if request not in state.reserved_requests and request not in state.active_requests:
                self._free(slot)

    @property
    def _store(self) -> Any:
        return self._consumer.app.runtime.store

    @property
    def _leases(self) -> Any:
        return self._consumer.app.runtime.leases
