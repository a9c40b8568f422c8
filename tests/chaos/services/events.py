"""The facts of the platform."""

from choreo import Event


class OrderPlaced(Event):
    number: int


class OrderConfirmedByRestaurant(Event):
    number: int


class OrderRejectedByRestaurant(Event):
    number: int


class PaymentCharged(Event):
    number: int
    #: Another one in each run, as a card processor would give it out: two runs never say the same.
    payment_id: str


class PaymentFailed(Event):
    number: int


class DriverAssigned(Event):
    number: int
    #: Another one in each run.
    trip_id: str


class PointsAwarded(Event):
    number: int


class OrderRated(Event):
    """Nobody announces it."""

    number: int


class RatingMissed(Event):
    number: int
