"""The events of `worker_app`."""

from choreo import Event


class OrderPlaced(Event):
    number: int = 0
    #: How long its handler takes.
    seconds: float = 0


class OrderCancelled(Event):
    pass


class OrderCharged(Event):
    number: int = 0


class OrderPacked(Event):
    number: int = 0


class StockMoved(Event):
    number: int = 0
    #: How long its handler takes; negative: until the test opens.
    seconds: float = 0
    #: How many of its attempts fail.
    fails: int = 0
