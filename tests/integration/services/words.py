"""The events of these tests."""

from choreo import Event


class OrderPlaced(Event):
    #: What the payment service shall do with it.
    behave: str = ""


class PaymentCharged(Event):
    attempt: int = 1


class OrderConfirmed(Event):
    pass


class OrderRejected(Event):
    pass


class DriverAssigned(Event):
    driver_id: str = "D-1"


class BookLent(Event):
    pass


class BookReturned(Event):
    pass


class MealCooked(Event):
    pass


class TableSet(Event):
    pass


class GuestArrived(Event):
    pass


class WineOpened(Event):
    pass


class BasketFilled(Event):
    items: list[str] = []


class ItemPacked(Event):
    #: Keyed by this, whatever the event is about.
    basket: str = ""
    #: What shall become of the first firing.
    behave: str = ""


class ReminderSent(Event):
    pass


class ParcelSent(Event):
    pass


class ParcelWeighed(Event):
    pass


class ParcelDelivered(Event):
    pass


class ParcelLost(Event):
    pass


class ParcelTraced(Event):
    pass


class ParcelFound(Event):
    pass


class OperatorCalled(Event):
    letter: str


class NobodyInformed(Event):
    """No service listens to it."""
