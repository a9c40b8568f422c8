"""The events of `async_app`."""

from choreo import Event


class OrderPlaced(Event):
    number: int = 0
    #: How long its handler awaits.
    seconds: float = 0.0
    #: Whether its handler waits until the test lets it go on.
    waits: bool = False
    #: Whether its handler fails.
    fails: bool = False
    #: Whether its handler blocks the loop for a moment.
    blocks: bool = False
    #: Whether its handler does not let itself be cancelled.
    stubborn: bool = False


class PaymentCharged(Event):
    number: int = 0


class OrderPacked(Event):
    number: int = 0


class OrderShipped(Event):
    number: int = 0
