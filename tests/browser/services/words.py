"""The events of the services."""

from choreo import Event


class OrderPlaced(Event):
    customer: str = "alice"
    note: str = ""


class OrderConfirmed(Event):
    pass


class PaymentCharged(Event):
    pass


class DriverAssigned(Event):
    pass
