"""The prober: lets one event of a handler through whose breaker is open, to see whether the handler works again."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from celery.worker import state

from choreo.broker.workload import is_stopping
from choreo.delivery.alert import resumed
from choreo.delivery.breaker import LEASE, OutageBreaker, is_open
from choreo.errors import EnvelopeError
from choreo.store.pauses import BREAKER, Pause
from choreo.worker.request import PROBE, SPECIAL

logger = logging.getLogger(__name__)

#: Seconds after which a pause that no worker probes is ended: the handler's code has no breaker any more.
UNPROBED = 60.0


@dataclass
class _Probe:
    """A probe of this worker."""

    breaker: OutageBreaker
    token: str
    #: When the main thread was asked to take an event from the queue. It may never do: the connection may be lost.
    asked_at: float = field(default_factory=monotonic)
    #: True while the main thread takes the event, and while it hands it over: the solo pool handles it meanwhile.
    is_busy: bool = False
    #: True once the main thread has tried.
    is_tried: bool = False
    #: True if the queue was empty.
    is_empty: bool = False
    #: Kombu's message.
    message: Any = None

    @property
    def is_under_way(self) -> bool:
        """True until the event is settled, or given back."""
        if self.is_busy:
            return True
        if not self.is_tried:
            return monotonic() - self.asked_at < LEASE
        message = self.message
        return message is not None and not message.acknowledged and message.headers.get("id") in state.requests


class Prober:
    """
    Probes for the handlers whose queues this worker would consume. ``worker`` is Celery's.

    `look` is a callback of `choreo.worker.pauses.PauseKeeper`, in whose thread all calls of the store are made. The
    event is taken from its queue in the worker's main thread, and handled as any other.
    """

    def __init__(self, worker: Any) -> None:
        self._worker, self._runtime = worker, worker.app.runtime
        #: Handler → its probe.
        self._probes: dict[str, _Probe] = {}

    def look(self, pauses: Mapping[str, Pause]) -> None:
        """Renew, end and begin probes, as these pauses say. Raises `StoreError`."""
        for handler in self._probes.keys() - pauses.keys():
            del self._probes[handler]
        for handler, pause in pauses.items():
            if is_open(pause):
                self._look_at(handler, pause)

    def _look_at(self, handler: str, pause: Pause) -> None:
        probe = self._probes.get(handler)
        if probe is None:
            self._begin(handler, pause)
        elif probe.is_under_way:
            if not probe.breaker.renew(probe.token):
                del self._probes[handler]  # its outcome is recorded
        else:
            del self._probes[handler]
            if probe.is_empty:
                probe.breaker.found_none(probe.token)
            else:
                probe.breaker.release(probe.token)  # nothing, if its outcome is recorded

    def _begin(self, handler: str, pause: Pause) -> None:
        known = [one for one in self._runtime.subscriptions if one.name == handler]
        consumer = getattr(self._worker, "consumer", None)
        if not known or consumer is None or is_stopping():
            return
        if known[0].retry.breaker is None:
            self._end_unprobed(pause)
            return
        if self._runtime.queue_of(handler) not in consumer.paused.kept:
            return
        breaker = OutageBreaker(self._runtime, known[0])
        if token := breaker.begin_probe(pause):
            probe = self._probes[handler] = _Probe(breaker, token)
            consumer.call_soon(self._let_through, consumer, self._runtime.queue_of(handler), probe)

    def _end_unprobed(self, pause: Pause) -> None:
        """End the pause of a handler that has no breaker any more, unless workers of another version probe it."""
        store = self._runtime.store
        if pause.probe_at is None or pause.probe_at.timestamp() + UNPROBED > store.now():
            return
        alerts = resumed(self._runtime, pause.handler, pause.id, by=BREAKER)
        if store.resume(pause.handler, instead_of=pause, scheduled=alerts):
            store.hasten_held(pause.handler)
            logger.warning("%s goes on: it has no breaker any more", pause.handler)

    # -- in the main thread --------------------------------------------------------------------------------------------

    def _let_through(self, consumer: Any, name: str, probe: _Probe) -> None:
        """Take one event from its queue, and handle it as a delivery that the worker has consumed."""
        probe.is_busy = True
        try:
            if consumer.task_consumer is not None and not is_stopping():
                self._take_one(consumer, name, probe)
        finally:
            probe.is_busy, probe.is_tried = False, True

    def _take_one(self, consumer: Any, name: str, probe: _Probe) -> None:
        tasks = consumer.task_consumer
        queue = consumer.app.amqp.queues[name].bind(tasks.channel)
        message = queue.get(no_ack=False, accept=tasks.accept)
        if message is None:
            probe.is_empty = True
        elif _is_runnable(queue, message):
            message.headers[SPECIAL] = [PROBE, probe.token]
            probe.message = message
            tasks.on_message(message)


def _is_runnable(queue: Any, message: Any) -> bool:
    """Prepare a delivery as its queue does when it is consumed. False if it was set aside."""
    set_aside: Callable[[Any, EnvelopeError], None] = queue.set_aside
    try:
        queue.prepare(message)
    except EnvelopeError as error:
        set_aside(message, error)
        return False
    return True
