"""Events of several versions at once: which class reads them, and what waits for code that knows a newer one."""

import json
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from choreo import Context, DeclarationError, Envelope, Event, Reason, Retry, Service, Several, Upcast, VersionError
from choreo.cli import choreo
from choreo.declare.join import Join
from choreo.errors import DeadLetterError, RerunError
from choreo.observe.map import drawn
from choreo.store.runs import Recording
from tests.unit.events import NOON, PaymentCharged, envelope
from tests.unit.stage import Stage, service


def with_crew(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "crew": data["crew"].split("+")}


class TripBooked(
    Event,
    version=3,
    upcasters=[Upcast(1, renamed={"trip": "trip_id"}, defaults={"currency": "EUR"}), Upcast(2, with_crew)],
):
    trip_id: str
    currency: str
    crew: list[str]


class TripBookedFirst(Event, type="trip.booked"):
    trip: str
    crew: str = ""


class SeatTaken(Event):
    trip_id: str = "T-1"


class TripView(BaseModel):
    trip_id: str
    currency: str = "?"


#: The same trip, as code of each version announces it.
DATA: dict[int, dict[str, Any]] = {
    1: {"trip": "T-1", "crew": "ann+bob"},
    2: {"trip_id": "T-1", "currency": "EUR", "crew": "ann+bob"},
    3: {"trip_id": "T-1", "currency": "EUR", "crew": ["ann", "bob"]},
}
TRIP = TripBooked(trip_id="T-1", currency="EUR", crew=["ann", "bob"])


def booked(version: int, id: str = "e-1", **changes: Any) -> Envelope:  # noqa: A002
    """A trip as some service has announced it in this version."""
    known: dict[str, Any] = {"version": version, "data": DATA.get(version, DATA[3]), "subject": "T-1"}
    return envelope(TRIP, id=id, **known | changes)


def hearing(annotation: Any, *topics: Any, **options: Any) -> tuple[Stage, list[Any]]:
    """A stage with a handler whose parameter has this annotation, and the events that it has handled."""
    app, seen = service("payment", retry=Retry(times=3)), []

    def charge(trip) -> None:
        seen.append(trip)

    charge.__annotations__["trip"] = annotation
    app.on(*topics or (TripBooked,), **options)(charge)
    return Stage(app), seen


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_handler_gets_its_own_version_of_each_event(version):
    stage, seen = hearing(TripBooked)

    stage.publish(booked(version))
    stage.run()

    assert seen == [TRIP]
    assert seen[0].meta.version == version
    assert seen[0].meta.data == DATA[version]


def test_of_several_classes_the_one_of_the_version_reads_it_else_the_next_newer_one():
    stage, seen = hearing(TripBooked | TripBookedFirst)

    for version in (1, 2, 3):
        stage.publish(booked(version, id=f"e-{version}"))
    stage.run()

    assert seen == [TripBookedFirst(trip="T-1", crew="ann+bob"), TRIP, TRIP]


def test_several_versions_can_be_named_in_the_decorator():
    stage, seen = hearing(TripBooked | TripBookedFirst, TripBookedFirst, TripBooked)

    stage.publish(booked(1))
    stage.run()

    assert seen == [TripBookedFirst(trip="T-1", crew="ann+bob")]
    assert [handler.hears for handler in stage.app.runtime.describe().handlers] == [("trip.booked",)]


def test_a_handler_reads_the_version_that_it_listens_to():
    with pytest.raises(
        DeclarationError, match=r"listens to version 3 of trip.booked, which TripBookedFirst does not re"
    ):
        hearing(TripBookedFirst, TripBooked)


def test_a_newer_version_is_a_dead_letter_at_once_that_says_what_to_deploy():
    stage, seen = hearing(TripBookedFirst, TripBookedFirst)

    stage.publish(booked(2))
    stage.run()

    (letter,) = stage.dead_letters
    assert seen == []
    assert (letter.reason, letter.attempts, letter.envelopes) == (Reason.VERSION, 1, (booked(2),))
    assert letter.error == (
        "VersionError: trip.booked T-1 has version 2, and TripBookedFirst reads version 1. Deploy code that knows "
        "version 2, then: `choreo dead-letters replay --cause VersionError`"
    )


def test_a_version_that_says_so_is_read_by_older_code():
    stage, seen = hearing(TripBookedFirst, TripBookedFirst)
    data = DATA[2] | DATA[1]

    stage.publish(booked(2, data=data, extensions={"choreoreadableby": 1}))
    stage.run()

    assert seen == [TripBookedFirst(trip="T-1", crew="ann+bob")]
    assert stage.dead_letters == []


def test_what_caused_an_event_does_not_tell_who_can_read_it():
    app = service("payment")

    @app.on(TripBooked)
    def charge(trip: TripBooked) -> PaymentCharged:
        return PaymentCharged()

    stage = Stage(app)
    stage.publish(booked(3, extensions={"choreoreadableby": 1}))
    stage.run()

    assert [event.extensions for event in stage.events if event.type == "payment.charged"] == [{}]


def test_an_upcaster_that_raises_makes_a_dead_letter_of_the_event_as_it_came():
    stage, seen = hearing(TripBooked)
    broken = booked(2, data={"trip_id": "T-1", "currency": "EUR"})

    stage.publish(broken)
    stage.run()

    (letter,) = stage.dead_letters
    assert seen == []
    assert (letter.reason, letter.attempts, letter.envelopes) == (Reason.UNREADABLE, 1, (broken,))
    assert "with_crew of TripBooked (tests/unit/test_versions.py:" in letter.error
    assert "KeyError: 'crew'" in letter.error


def test_a_view_reads_the_version_of_the_class_that_its_handler_listens_to():
    stage, seen = hearing(TripView)

    for version in (1, 3, 4):
        stage.publish(booked(version, id=f"e-{version}"))
    stage.run()

    assert seen == [TripView(trip_id="T-1", currency="EUR")] * 2
    assert [letter.reason for letter in stage.dead_letters] == [Reason.VERSION]


def test_a_view_of_a_type_that_is_named_by_a_text_reads_the_fields_of_any_version():
    stage, seen = hearing(TripView, "trip.booked")

    for version in (1, 3, 4):
        stage.publish(booked(version, id=f"e-{version}"))
    stage.run()

    assert seen == [TripView(trip_id="T-1", currency="EUR")] * 2
    assert [letter.reason for letter in stage.dead_letters] == [Reason.UNREADABLE]


def test_an_envelope_is_as_it_was_announced():
    stage, seen = hearing(Envelope)

    stage.publish(booked(1))
    stage.run()

    assert seen == [booked(1)]


def test_a_retry_is_read_anew():
    app, attempts = service("payment", retry=Retry(times=3)), []

    @app.on(TripBooked)
    def charge(trip: TripBooked) -> None:
        attempts.append(trip)
        if len(attempts) == 1:
            raise ConnectionError

    stage = Stage(app)
    stage.publish(booked(1))
    stage.run()
    stage.advance(timedelta(minutes=1))

    assert attempts == [TRIP, TRIP]


def test_a_delayed_event_of_an_older_version_is_read():
    app, seen = service("payment"), []

    @app.on(TripBooked)
    def charge(trip: TripBooked) -> None:
        seen.append(trip)

    stage = Stage(app)
    app.publish(TripBookedFirst(trip="T-1", crew="ann+bob"), delay=60)
    stage.advance(timedelta(minutes=2))

    assert seen == [TRIP]


# -- joins and stories -----------------------------------------------------------------------------------------------


def joining(*parts: Any, **options: Any) -> tuple[Stage, list[Any]]:
    app, seen = service("payment", retry=Retry(times=0)), []

    @app.join(*parts or (TripBooked, SeatTaken), **options)
    def assign(trip: TripBooked, seats: list[SeatTaken] if parts else SeatTaken, context: Context) -> None:  # type: ignore[valid-type]
        seen.append((trip, context.idempotency_key))
        if len(seen) == 1 and options.get("rounds"):
            raise ValueError("no seat")

    return Stage(app), seen


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_join_finds_its_key_in_each_version(version):
    stage, seen = joining(by="trip_id")

    stage.publish(booked(version, subject="another"))
    stage.publish(SeatTaken(), subject="a seat")
    stage.run()

    assert [trip for trip, _ in seen] == [TRIP]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_join_finds_in_each_version_how_many_events_it_needs(version):
    stage, seen = joining(TripBooked, Several(SeatTaken, per="crew", of=TripBooked))

    stage.publish(booked(version))
    for _ in range(2):
        assert seen == []
        stage.publish(SeatTaken(), subject="T-1")
        stage.run()

    assert [trip for trip, _ in seen] == [TRIP]


def test_a_part_whose_key_is_in_a_newer_version_is_a_dead_letter_that_a_replay_brings_back():
    stage, seen = joining(by="trip_id")

    stage.publish(booked(4, subject="another"))
    stage.publish(SeatTaken(), subject="a seat")
    stage.run()

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.envelopes) == (Reason.VERSION, (booked(4, subject="another"),))
    assert letter.error.startswith("VersionError: trip.booked another has version 4")
    assert [join.key for join in stage.joins] == ["T-1"]
    assert seen == []


def test_a_part_of_a_newer_version_waits_for_code_that_can_read_it_if_the_key_is_its_subject():
    stage, seen = joining()

    stage.publish(booked(4))
    stage.run()
    assert stage.dead_letters == []

    stage.publish(SeatTaken(), subject="T-1")
    stage.run()
    (letter,) = stage.dead_letters
    assert (letter.reason, len(letter.envelopes)) == (Reason.VERSION, 2)
    assert seen == []


def test_a_join_names_the_newest_version_only():
    def assign(trip: TripBooked, first: TripBookedFirst) -> None: ...

    with pytest.raises(DeclarationError, match=r"names the same event twice: trip.booked, trip.booked. Of several ver"):
        service().join(TripBooked, TripBookedFirst)(assign)


def test_a_parameter_of_a_join_may_take_several_versions():
    app, seen = service(), []

    @app.join(TripBooked, SeatTaken)
    def assign(trip: TripBooked | TripBookedFirst, seat: SeatTaken) -> None:
        seen.append(trip)

    stage = Stage(app)
    stage.publish(booked(1))
    stage.publish(SeatTaken(), subject="T-1")
    stage.run()

    assert seen == [TripBookedFirst(trip="T-1", crew="ann+bob")]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_story_finds_its_key_in_each_version(version):
    app = service()
    app.story("ride", begins=TripBooked, ends=SeatTaken, within=timedelta(hours=1), by="trip_id")
    stage = Stage(app)

    stage.publish(booked(version, subject="another"))
    stage.run()
    assert [story.key for story in stage.stories] == ["T-1"]

    stage.publish(SeatTaken(), subject="a seat")
    stage.run()
    assert stage.stories == []


def test_a_story_keeps_an_event_whose_key_it_cannot_read_as_a_dead_letter():
    app = service()
    app.story("ride", begins=TripBooked, ends=SeatTaken, within=timedelta(hours=1), by="trip_id")
    stage = Stage(app)

    stage.publish(booked(4))
    stage.publish(booked(2, id="e-2", data={"trip_id": "T-1"}))
    stage.run()

    assert {letter.reason for letter in stage.dead_letters} == {Reason.VERSION, Reason.UNREADABLE}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_undo_finds_its_key_and_reads_the_effect_in_each_version(version):
    app, undone = service(), []

    @app.on(SeatTaken, undoes=TripBooked, by="trip_id")
    def cancel(trip: TripView) -> None:
        undone.append(trip)

    stage = Stage(app)
    stage.publish(booked(version, subject="another"))
    stage.publish(SeatTaken(), subject="a seat")
    stage.run()

    assert undone == [TripView(trip_id="T-1", currency="EUR")]
    (told,) = app.runtime.describe().handlers
    assert dict(told.versions) == {"trip.booked": (1, 2, 3)}


# -- repairs ---------------------------------------------------------------------------------------------------------


class Shop:
    """A service that fails as long as it is told to, with a join that has a key of its own and asks for a number."""

    def __init__(self) -> None:
        self.app = app = service("payment", retry=Retry(times=0))
        app.conf.choreo_allow_edit = True
        self.fails, self.seen = True, []

        @app.on(TripBooked)
        def charge(trip: TripBooked) -> None:
            self._take(trip)

        # The event that tells the number is not the first of its parts.
        @app.join(Several(SeatTaken, per="crew", of=TripBooked), TripBooked, by="trip_id")
        def assign(seats: list[SeatTaken], trip: TripBooked) -> None:
            self._take(trip)

        self.stage = Stage(app, start=NOON)
        self.stage.store._recording = Recording(events=True)

    def _take(self, trip: TripBooked) -> None:
        if self.fails:
            raise ValueError("closed")
        self.seen.append(trip)

    def trip(self, version: int) -> None:
        self.stage.publish(booked(version, id="00000000-0000-4000-8000-000000000001"))
        for _ in range(2):
            self.stage.publish(SeatTaken(), subject="a seat")
        self.stage.run()

    def letter(self, handler: str):
        return next(letter for letter in self.stage.dead_letters if letter.handler == handler)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("handler", ["payment.charge", "payment.assign"])
def test_a_replay_reads_the_event_anew(version, handler):
    shop = Shop()
    shop.trip(version)
    shop.fails = False

    shop.app.dead_letters.replay(shop.letter(handler).id)
    shop.stage.advance(timedelta(seconds=1))

    assert shop.seen == [TRIP]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(("handler", "what"), [("payment.charge", "T-1"), ("payment.assign", "a seat")])
def test_a_rerun_reads_the_event_anew(version, handler, what):
    shop = Shop()
    shop.fails = False
    shop.trip(version)
    assert shop.seen == [TRIP, TRIP]

    plan = shop.app.reruns.plan(handler, what)
    shop.app.reruns.run(plan)
    shop.stage.advance(timedelta(seconds=1))

    assert shop.seen == [TRIP] * 3


def test_a_rerun_of_a_join_reads_its_key_as_far_as_no_code_of_the_service_is_needed():
    def with_id(data: dict[str, Any]) -> dict[str, Any]:
        return {"car_id": data["car"]}

    class CarSold(Event, version=2, upcasters=[Upcast(1, renamed={"car": "car_id"})]):
        car_id: str

    class CarPaid(Event, version=2, upcasters=[Upcast(1, with_id)]):
        car_id: str

    class CarWashed(Event, version=2, upcasters=[Upcast(1, with_id)]):
        car_id: str

    app, seen = service("payment"), []

    @app.join(CarPaid, CarSold, by="car_id")
    def deliver(paid: CarPaid, sold: CarSold) -> None:
        seen.append(sold)

    @app.join(CarPaid, CarWashed, by="car_id")
    def polish(paid: CarPaid, washed: CarWashed) -> None:
        seen.append(washed)

    stage = Stage(app, start=NOON)
    stage.store._recording = Recording(events=True)
    for event in (CarSold(car_id="C-1"), CarPaid(car_id="C-1"), CarWashed(car_id="C-1")):
        stage.publish(envelope(event, id=event.event_type, version=1, data={"car": "C-1"}, subject="shop"))
    stage.run()
    assert seen == [CarSold(car_id="C-1"), CarWashed(car_id="C-1")]

    app.reruns.run(app.reruns.plan("payment.deliver", "car.sold"))
    stage.advance(timedelta(seconds=1))
    assert seen[2:] == [CarSold(car_id="C-1")]
    with pytest.raises(RerunError, match=r"The key of car.paid shop cannot be read here: .* is code of the service"):
        app.reruns.plan("payment.polish", "car.paid")


def test_data_that_a_person_gives_is_of_the_newest_version():
    shop = Shop()
    shop.stage.store._recording = Recording()
    shop.fails = False
    shop.trip(1)

    shop.app.reruns.run(shop.app.reruns.plan("payment.charge", "T-1", DATA[3] | {"currency": "CHF"}))
    shop.stage.advance(timedelta(seconds=1))

    assert shop.seen[2:] == [TripBooked(trip_id="T-1", currency="CHF", crew=["ann", "bob"])]


def test_an_edit_is_checked_in_the_version_of_the_event():
    shop = Shop()
    shop.trip(1)
    shop.fails, letter = False, shop.letter("payment.charge")

    with pytest.raises(DeadLetterError, match=r"not a valid trip.booked of version 1: .*with_crew.*KeyError"):
        shop.app.dead_letters.edit(letter.id, {"trip": "T-2"})
    shop.app.dead_letters.edit(letter.id, {"trip": "T-2", "crew": "ann"})
    shop.stage.advance(timedelta(seconds=1))

    assert shop.seen == [TripBooked(trip_id="T-2", currency="EUR", crew=["ann"])]


def test_a_replay_of_a_newer_version_that_still_cannot_be_read_stays_a_dead_letter():
    stage, _ = hearing(TripBookedFirst, TripBookedFirst)
    stage.publish(booked(2))
    stage.run()
    (before,) = stage.dead_letters

    stage.app.dead_letters.replay(before.id)
    stage.advance(timedelta(seconds=1))

    (after,) = stage.dead_letters
    assert after.id != before.id
    assert after.reason is Reason.VERSION


# -- what others are told --------------------------------------------------------------------------------------------


def test_a_description_tells_the_versions_that_each_handler_reads():
    app = service()

    @app.on(TripBooked)
    def newest(trip: TripBooked) -> None: ...

    @app.on(TripBookedFirst)
    def first(trip: TripBookedFirst) -> None: ...

    @app.on(TripBooked)
    def view(trip: TripView) -> None: ...

    @app.on("trip.booked")
    def fields(trip: TripView) -> None: ...

    @app.join(TripBooked, SeatTaken)
    def joined(trip: TripBooked, seat: Envelope) -> None: ...

    told = {one.name.partition(".")[2]: one for one in app.runtime.describe().handlers}

    assert {name: dict(one.versions) for name, one in told.items()} == {
        "newest": {"trip.booked": (1, 2, 3)},
        "first": {"trip.booked": (1,)},
        "view": {"trip.booked": (1, 2, 3)},
        "fields": {},
        "joined": {"trip.booked": (1, 2, 3)},
    }
    assert told["newest"].reads == {"trip.booked": ("trip_id", "currency", "crew", "trip")}
    assert type(told["newest"]).from_dict(json.loads(json.dumps(told["newest"].to_dict()))) == told["newest"]


def test_the_map_finds_the_readers_of_a_field_by_its_former_name():
    app = service()

    @app.on(TripBooked)
    def charge(trip: TripBooked) -> None: ...

    shown = Stage(app).map

    assert [reader.name for reader in shown.readers("trip")] == ["payment.charge"]


def test_old_and_new_code_of_a_join_are_no_divided_service():
    def declared(event: type[Event], key: str) -> Service:
        app = service()

        @app.join(event, SeatTaken, by={event: key, SeatTaken: "trip_id"})
        def assign(trip: Envelope, seat: SeatTaken) -> None: ...

        return app

    (new,) = declared(TripBooked, "trip_id").runtime.describe().handlers

    assert json.loads(json.dumps(new.join))["versions"]["trip.booked"]["version"] == 3
    assert "versions" not in new.shape[2]


def test_the_cause_in_a_trace_says_what_to_deploy(monkeypatch):
    stage, _ = hearing(TripBookedFirst, TripBookedFirst)
    stage.publish(booked(2))
    stage.run()
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)

    shown = CliRunner().invoke(choreo, ["trace", "T-1"])

    assert "# deploy code of payment that reads this version, then:" in shown.output
    assert f"choreo dead-letters replay {stage.dead_letters[0].id}" in shown.output


def test_a_stage_reads_announced_events_in_the_version_of_the_class():
    app = service()

    @app.on(SeatTaken)
    def book(seat: SeatTaken) -> TripBookedFirst:
        return TripBookedFirst(trip="T-1", crew="ann+bob")

    stage = Stage(app)
    stage.publish(SeatTaken(), subject="T-1")
    stage.run()

    assert stage.announced(TripBooked) == [TRIP]
    assert stage.announced(TripBookedFirst) == [TripBookedFirst(trip="T-1", crew="ann+bob")]
    stage.publish(booked(2))
    with pytest.raises(VersionError):
        stage.announced(TripBookedFirst)


def test_a_joins_fields_are_read_from_its_own_class_only() -> None:
    (join,) = [one for one in Shop().app.subscriptions if isinstance(one, Join)]

    assert set(join.classes) == {"trip.booked", "seat.taken"}


def test_the_map_shows_the_versions_that_all_workers_of_a_service_read():
    def declared(event: type[Event]) -> Any:
        app = service()

        @app.on(event)
        def charge(trip: event) -> None: ...  # type: ignore[valid-type]

        return app.runtime.describe()

    new, old = declared(TripBooked), declared(TripBookedFirst)

    def read_by(*descriptions: Any) -> list[tuple[int, ...]]:
        return [hearer.versions for event in drawn(descriptions).events for hearer in event.heard_by]

    assert read_by(new) == [(1, 2, 3)]
    assert read_by(new, old) == read_by(old, new) == [(1,)]


def test_the_map_of_one_type_lists_the_versions(monkeypatch):
    stage, _ = hearing(TripBooked)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    stage.app.runtime.pending()  # tells the store what the service declares

    shown = CliRunner().invoke(choreo, ["map", "trip.booked"]).output

    assert ["trip.booked", "is", "heard", "by", "LISTENS", "VERSIONS", "READS"] in map(str.split, shown.splitlines())
    assert "payment.charge           by name  1, 2, 3" in shown
