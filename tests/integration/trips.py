"""An event before and after a field of it was renamed, and another one without a new version."""

from choreo import Event, Upcast


class TripBookedFirst(Event, type="trip.booked"):
    """The event as old code knows it."""

    number: int


class TripBooked(Event, version=2, upcasters=[Upcast(1, renamed={"number": "trip"}, defaults={"seats": 1})]):
    """The event as new code knows it."""

    trip: int
    seats: int


class SeatTaken(Event):
    trip: int
