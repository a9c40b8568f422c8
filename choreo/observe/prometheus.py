"""
Metrics for Prometheus, of what Flower and celery-exporter do not know: they see runs, and this is what waits for one.

Every metric is read when it is asked for. Imported only where prometheus_client is installed.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from choreo.errors import StoreError
from choreo.observe.handlers import Handlers, HandlerState
from choreo.store.schedule import Backlog
from choreo.store.servers import Server

#: Name → help. A test compares them with the dashboard in deploy/grafana.
GAUGES = {
    "choreo_up": "1 if the store or the broker answered, else 0.",
    "choreo_scrape_seconds": "How long it took to read all this.",
    "choreo_workers": "Live workers of a service.",
    "choreo_waiting_messages": "Messages in the queue of a handler. Those in the hands of workers do not count.",
    "choreo_oldest_waiting_seconds": "Age of the event that is taken next from a queue (on Redis).",
    "choreo_dead_letters": "Dead letters of a handler.",
    "choreo_pending_joins": "Joins that are not settled.",
    "choreo_overdue_joins": "Joins whose deadline has passed, and that are not settled.",
    "choreo_schedule_due_messages": "Messages of a schedule that are due. With live workers it is 0, but for moments.",
    "choreo_schedule_late_seconds": "How long the first of them has been due.",
    "choreo_schedule_later_messages": "Messages of a schedule that fall due later, and deadlines of joins.",
    "choreo_store_memory_bytes": "Memory that a server of the store uses.",
    "choreo_store_memory_limit_bytes": "Memory that it may use. Missing if there is no limit.",
    "choreo_store_evicting": "1 if it drops keys when its memory is full. It must be 0.",
    "choreo_store_persistent": "1 if it writes each change to disk.",
}
COUNTERS = {
    "choreo_ignored_join_events_total": "Events that did not count for a join: late, duplicate, surplus.",
    "choreo_store_evicted_keys_total": "Keys that a server of the store has dropped since its start. It must be 0.",
}


class ChoreoCollector(Collector):
    """Reads the metrics of a platform. ``servers`` and ``now`` are callbacks of the store."""

    def __init__(self, handlers: Handlers, servers: Callable[[], Iterable[Server]], now: Callable[[], float]) -> None:
        self._handlers, self._servers, self._now = handlers, servers, now
        # Two scrapes at a time would share a connection to the broker.
        self._reading = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would otherwise read all metrics when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. If the store does not answer, only `choreo_up` and the time of the scrape."""
        with self._reading:
            families = _Families()
            began = time.perf_counter()
            try:
                self._read(families)
                families.add("choreo_up", 1, part="store")
            except StoreError:
                families = _Families()
                families.add("choreo_up", 0, part="store")
            families.add("choreo_scrape_seconds", time.perf_counter() - began)
        return iter(families)

    def _read(self, families: "_Families") -> None:
        now = self._now()
        for state in self._handlers.states():
            _add_state(families, state, now)
        families.add("choreo_up", int(self._handlers.trouble is None), part="broker")
        _add_schedule(families, self._handlers.delayed(), service="", handler="delayed")
        for service, workers in self._handlers.workers():
            families.add("choreo_workers", workers, service=service)
        for server in self._servers():
            _add_server(families, server)


class _Families:
    """Samples by metric. Each metric has the labels of its first sample."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        if name not in self._families:
            kind, texts = (GaugeMetricFamily, GAUGES) if name in GAUGES else (CounterMetricFamily, COUNTERS)
            self._families[name] = kind(name, texts[name], labels=list(labels))
        self._families[name].add_metric(list(labels.values()), value)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())


def _add_state(families: _Families, state: HandlerState, now: float) -> None:
    labels = {"service": state.service, "handler": state.name}
    if state.depth is not None:
        families.add("choreo_waiting_messages", state.depth.waiting, **labels)
    if state.depth is not None and state.depth.since is not None:
        families.add("choreo_oldest_waiting_seconds", max(now - state.depth.since.timestamp(), 0), **labels)
    families.add("choreo_dead_letters", state.letters, **labels)
    _add_schedule(families, state.backlog, **labels)
    if state.is_join:
        families.add("choreo_pending_joins", state.backlog.joins, **labels)
        families.add("choreo_overdue_joins", state.backlog.reminded, **labels)
    for reason, count in state.ignored.items():
        families.add("choreo_ignored_join_events_total", count, **labels, reason=reason)


def _add_schedule(families: _Families, backlog: Backlog, **labels: str) -> None:
    families.add("choreo_schedule_due_messages", backlog.due, **labels)
    families.add("choreo_schedule_late_seconds", backlog.late, **labels)
    families.add("choreo_schedule_later_messages", backlog.later, **labels)


def _add_server(families: _Families, server: Server) -> None:
    facts = {
        "choreo_store_memory_bytes": server.used,
        "choreo_store_memory_limit_bytes": server.limit,
        "choreo_store_evicting": None if server.policy is None else server.evicts,
        "choreo_store_persistent": server.is_persistent,
        "choreo_store_evicted_keys_total": server.evicted,
    }
    for name, value in facts.items():
        if value is not None:
            families.add(name, float(value), server=server.address)
