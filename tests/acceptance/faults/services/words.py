"""The events of the platform in which faults are injected."""

from choreo import Event


class OrderPlaced(Event):
    #: The fault that a service shall have with it.
    fault: str = ""


class OrderConfirmed(Event):
    pass


class OrderRejected(Event):
    pass


class PaymentCharged(Event):
    pass


class PaymentFailed(Event):
    reason: str = ""


class DriverAssigned(Event):
    pass


class ParcelPlaced(Event):
    pass


class ParcelPaid(Event):
    pass


class ParcelSent(Event):
    pass


class MealOrdered(Event):
    fault: str = ""


class ArrivalNoted(Event):
    pass


class RefusalNoted(Event):
    pass


class PointsEarned(Event):
    currency: str = "EUR"


class TicketBooked(Event):
    pass


class StockChanged(Event):
    #: How many events of the loop are still to come.
    left: int = 0


class PriceChanged(Event):
    left: int = 0


class ReminderSent(Event):
    pass


class VoucherBought(Event):
    pass


class TripBooked(Event):
    pass


class TripPaid(Event):
    pass


class TripCancelled(Event):
    pass


class AlarmSilenced(Event):
    pass


class OrdersPlaced(Event):
    """A misspelling of `OrderPlaced`."""
