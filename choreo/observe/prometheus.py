"""
Metrics for Prometheus, of what Flower and celery-exporter do not know: they see runs, and this is what waits for one.

Every metric is read when it is asked for. Imported only where prometheus_client is installed.
"""

import threading
import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from choreo.delivery.undeclared import is_handler
from choreo.errors import StoreError
from choreo.observe.readings import HandlerReading, Reading, Readings
from choreo.observe.server import Server
from choreo.store.schedule import Backlog

#: Name → help. A test compares them with the dashboard in deploy/grafana.
GAUGES = {
    "choreo_up": "1 if the store or the broker answered, else 0.",
    "choreo_scrape_seconds": "How long it took to read all this.",
    "choreo_workers": "Live workers of a service.",
    "choreo_waiting_messages": "Messages in the queue of a handler. Those in the hands of workers do not count.",
    "choreo_oldest_waiting_seconds": "Age of the event that is taken next from a queue (on Redis).",
    "choreo_dead_letters": "Dead letters of a handler.",
    "choreo_handler_paused": "1 if a handler is paused, 0 if not. One that is only slowed down is not paused.",
    "choreo_handler_rate_limit": "Events per second to which a handler is slowed down. Missing if it is not.",
    "choreo_pending_joins": "Joins that are not settled.",
    "choreo_overdue_joins": "Joins whose deadline has passed, and that are not settled.",
    "choreo_pending_stories": "Stories that have not ended.",
    "choreo_overdue_stories": "Stories that have not ended, and whose deadline has passed.",
    "choreo_schedule_due_messages": "Messages of a schedule that are due. With live workers it is 0, but for moments.",
    "choreo_schedule_late_seconds": "How long the first of them has been due.",
    "choreo_schedule_later_messages": "Messages of a schedule that fall due later, and deadlines of joins.",
    "choreo_store_memory_bytes": "Memory that a server of the store uses.",
    "choreo_store_memory_limit_bytes": "Memory that it may use. Missing if there is no limit.",
    "choreo_store_evicting": "1 if it drops keys when its memory is full. It must be 0.",
    "choreo_store_persistent": "1 if it writes each change to disk.",
}
COUNTERS = {
    "choreo_unheard_events_total": "Events of a type that reached no queue: no handler listened.",
    "choreo_ignored_join_events_total": "Events that did not count for a join: late, duplicate, surplus.",
    "choreo_stories_total": "Stories by their course: ended_in_time, ended_late, overdue, abandoned, unbegun.",
    "choreo_store_evicted_keys_total": "Keys that a server of the store has dropped since its start. It must be 0.",
}


class ChoreoCollector(Collector):
    """Takes a reading of a platform for each scrape."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        # Two scrapes at a time would share a connection to the broker.
        self._reading = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would otherwise take a reading when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. If the store does not answer, only `choreo_up` and the time of the scrape."""
        families = _Families()
        began = time.perf_counter()
        try:
            with self._reading:
                reading = self._readings.take()
        except StoreError:
            families.add("choreo_up", 0, part="store")
        else:
            _add(families, reading)
        families.add("choreo_scrape_seconds", time.perf_counter() - began)
        return iter(families)


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


def _add(families: _Families, reading: Reading) -> None:
    families.add("choreo_up", 1, part="store")
    families.add("choreo_up", int(reading.has_broker), part="broker")
    for service, workers in reading.workers.items():
        families.add("choreo_workers", workers, service=service)
    for handler in reading.handlers:
        _add_handler(families, handler, reading.at)
    _add_schedule(families, reading.delayed, service="", handler="delayed")
    for kind, unheard in reading.unheard.items():
        families.add("choreo_unheard_events_total", unheard.count, type=kind)
    for server in reading.servers:
        _add_server(families, server)


def _add_handler(families: _Families, handler: HandlerReading, now: float) -> None:
    labels, depth = {"service": handler.service, "handler": handler.name}, handler.depth
    if depth is not None:
        families.add("choreo_waiting_messages", depth.count, **labels)
        if depth.first is not None:
            families.add("choreo_oldest_waiting_seconds", max(now - depth.first, 0), **labels)
    families.add("choreo_dead_letters", handler.dead_letters, **labels)
    if is_handler(handler.name):
        families.add("choreo_handler_paused", handler.pause is not None and handler.pause.is_stop, **labels)
    if handler.pause is not None and handler.pause.rate is not None:
        families.add("choreo_handler_rate_limit", handler.pause.rate, **labels)
    _add_schedule(families, handler.backlog, **labels)
    if handler.is_join:
        families.add("choreo_pending_joins", handler.backlog.joins, **labels)
        families.add("choreo_overdue_joins", handler.backlog.reminded, **labels)
    if handler.courses is not None:
        families.add("choreo_pending_stories", handler.backlog.joins, **labels)
        families.add("choreo_overdue_stories", handler.backlog.reminded, **labels)
        for course, count in handler.courses.items():
            families.add("choreo_stories_total", count, **labels, course=course)
    for reason, count in handler.ignored.items():
        families.add("choreo_ignored_join_events_total", count, **labels, reason=reason)


def _add_schedule(families: _Families, backlog: Backlog, **labels: str) -> None:
    families.add("choreo_schedule_due_messages", backlog.due, **labels)
    families.add("choreo_schedule_late_seconds", backlog.late, **labels)
    families.add("choreo_schedule_later_messages", backlog.later, **labels)


def _add_server(families: _Families, server: Server) -> None:
    families.add("choreo_store_memory_bytes", server.used, server=server.name)
    if server.limit:
        families.add("choreo_store_memory_limit_bytes", server.limit, server=server.name)
    families.add("choreo_store_evicted_keys_total", server.evicted, server=server.name)
    if server.policy:
        families.add("choreo_store_evicting", server.policy != "noeviction", server=server.name)
    if server.aof is not None:
        families.add("choreo_store_persistent", server.aof, server=server.name)
