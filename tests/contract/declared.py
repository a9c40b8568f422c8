"""Queues of a service on a real broker, for the length of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

from kombu import Queue

from choreo import Service


@contextmanager
def declared(app: Service) -> Iterator[Service]:
    """Declare the queues of a service, as its first worker does; and delete them at the end of the block."""
    with app.connection_for_write() as connection:
        for queue in app.runtime.topology.queues():
            queue(connection).declare()
        yield app
        for queue in app.runtime.topology.queues():
            Queue(queue.name, channel=connection).delete()
    app.publisher.close()
