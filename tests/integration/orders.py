"""The events of `worker_app`."""

from choreo import Event


class OrderPlaced(Event):
    number: int = 0
    #: How long its handler takes.
    seconds: float = 0


class OrderCancelled(Event):
    pass
