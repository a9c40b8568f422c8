"""A service before and after a field of an event was renamed; which of the two it is, the environment says."""

import json
import os
from collections.abc import Callable

import redis

from choreo import Retry, RetryLater, Service
from tests.integration.trips import SeatTaken, TripBooked, TripBookedFirst

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
IS_NEW = SETTINGS.pop("new")
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS)


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


def old_code() -> None:
    @app.on(TripBookedFirst, retry=Retry(times=100))
    def charge_customer(trip: TripBookedFirst) -> None:
        if trip.number == 0:
            note("tried", 0)
            raise RetryLater(1)
        note("charged", trip.number)

    @app.join(TripBookedFirst, SeatTaken, by={TripBookedFirst: "number", SeatTaken: "trip"})
    def assign_seat(trip: TripBookedFirst, seat: SeatTaken) -> None:
        note("assigned", trip.number)


def new_code() -> None:
    @app.on(TripBooked)
    def charge_customer(trip: TripBooked) -> None:
        note("charged", trip.trip)

    @app.join(TripBooked, SeatTaken, by="trip")
    def assign_seat(trip: TripBooked, seat: SeatTaken) -> None:
        note("assigned", trip.trip)


declare: Callable[[], None] = new_code if IS_NEW else old_code
declare()
