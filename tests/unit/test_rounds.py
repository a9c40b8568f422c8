"""Joins with rounds: the same key is joined again and again. And the warning of a join without them."""

from copy import copy
from datetime import timedelta

import pytest

from choreo import Context, Envelope, Event, PermanentFailure, Retry, RetryLater, Service, Several, Terms
from choreo.errors import DeadLetterError, DeclarationError
from choreo.operate.joins import Joins
from choreo.testing import stage as stage_of
from tests.unit.events import envelope
from tests.unit.stage import Stage, service

WITHIN = timedelta(minutes=30)
#: Longer than an event is held back that a pending round has no place for.
HELD = Terms().lease.total_seconds() + 1


class BookLent(Event):
    pass


class BookReturned(Event):
    pass


class BookLost(Event):
    pass


class LoanEnded(Event):
    parts: list[str] = []


def lent(number: int, book: str = "BOOK-1") -> Envelope:
    return envelope(BookLent(), id=f"lent-{number}", subject=book)


def returned(number: int, book: str = "BOOK-1") -> Envelope:
    return envelope(BookReturned(), id=f"returned-{number}", subject=book)


def library(rounds: bool = True, fail=(), late=None, **options) -> Service:
    app = service("library")
    errors = list(fail)

    def overdue(loan: BookLent | None, back: BookReturned | None) -> None:
        late.append([event.meta.id for event in (loan, back) if event])

    on_timeout = None if late is None else overdue

    @app.join(BookLent, BookReturned, rounds=rounds, within=WITHIN, on_timeout=on_timeout, **options)
    def end_loan(loan: BookLent, back: BookReturned, context: Context) -> LoanEnded:
        if errors and (error := errors.pop(0)):
            raise error
        return LoanEnded(parts=[loan.meta.id, back.meta.id])

    return app


def ended(stage: Stage) -> list[list[str]]:
    return [event.data["parts"] for event in stage.told_by_services]


def test_every_new_pair_of_events_is_a_round_of_its_own():
    stage = Stage(library())

    for number in (1, 2, 3):
        stage.deliver(lent(number))
        stage.deliver(returned(number))

    assert ended(stage) == [[f"lent-{number}", f"returned-{number}"] for number in (1, 2, 3)]
    assert len({event.id for event in stage.events}) == 3
    assert stage.app.joins.tally("library.end_loan") == {"late": 0, "duplicate": 0, "surplus": 0}
    assert stage.store.backlog("library.end_loan").total == 0


def test_events_that_come_again_change_nothing_in_any_later_round(caplog):
    stage = Stage(library())
    for number in (1, 2):
        stage.deliver(lent(number))
        stage.deliver(returned(number))
    stage.deliver(lent(3))

    for number in (1, 2):
        stage.deliver(lent(number))
        stage.deliver(returned(number))

    (join,) = stage.app.joins
    assert [part.envelope.id for part in join.arrived] == ["lent-3"]
    assert len(ended(stage)) == 2
    assert warnings(caplog) == []


def test_an_event_that_the_pending_round_has_no_place_for_is_held_until_the_next_one():
    stage = Stage(library())
    stage.deliver(lent(1))
    stage.deliver(lent(2))
    stage.pass_time(2 * HELD)
    assert ended(stage) == []

    stage.deliver(returned(1))
    stage.pass_time(HELD)
    stage.deliver(returned(2))

    assert ended(stage) == [["lent-1", "returned-1"], ["lent-2", "returned-2"]]


def test_a_new_event_waits_while_the_round_before_is_retried():
    stage = Stage(library(fail=[RetryLater(100)], retry=Retry(times=1)))
    stage.deliver(lent(1))
    stage.deliver(returned(1))
    stage.deliver(returned(2))
    stage.deliver(lent(2))
    assert ended(stage) == []

    stage.pass_time(100 + HELD)

    assert ended(stage) == [["lent-1", "returned-1"], ["lent-2", "returned-2"]]


def test_each_round_has_a_deadline_of_its_own():
    late: list[list[str]] = []
    stage = Stage(library(late=late))

    for number in (1, 2):
        stage.deliver(lent(number))
        stage.pass_time(WITHIN.total_seconds() - 1)
        assert len(late) == number - 1
        stage.pass_time(2)
    stage.deliver(lent(3))
    stage.deliver(returned(3))

    assert late == [["lent-1"], ["lent-2"]]
    assert ended(stage) == [["lent-3", "returned-3"]]


def test_the_deadline_of_one_round_does_not_end_the_next():
    late: list[list[str]] = []
    stage = Stage(library(late=late))
    stage.deliver(lent(1))
    stage.wait(WITHIN.total_seconds() + 1)
    stage.clock.tick()
    (deadline,) = stage.pending
    stage.deliver(returned(1))
    stage.wait(1)
    stage.deliver(lent(2))

    stage.run()

    assert deadline.event.type == "choreo.join_expired"
    assert late == []
    assert ended(stage) == [["lent-1", "returned-1"]]
    assert [part.envelope.id for part in stage.app.joins.get("BOOK-1").arrived] == ["lent-2"]


def test_unless_cancels_the_pending_round_once():
    stage = Stage(library(unless=BookLost))
    lost = envelope(BookLost(), id="lost-1", subject="BOOK-1")
    stage.deliver(lent(1))
    stage.deliver(lost)
    assert list(stage.app.joins) == []

    stage.deliver(lent(2))
    stage.deliver(lost)
    stage.deliver(returned(2))

    assert ended(stage) == [["lent-2", "returned-2"]]


def test_unless_that_came_too_late_for_one_round_does_not_cancel_the_next():
    stage = Stage(library(unless=BookLost))
    lost = envelope(BookLost(), id="lost-1", subject="BOOK-1")
    stage.deliver(lent(1))
    stage.deliver(returned(1))
    stage.deliver(lost)

    stage.deliver(lent(2))
    stage.deliver(lost)
    stage.deliver(returned(2))

    assert ended(stage) == [["lent-1", "returned-1"], ["lent-2", "returned-2"]]


def test_a_round_that_was_cancelled_by_hand_is_followed_by_another(caplog):
    stage = Stage(library())
    stage.deliver(lent(1))
    stage.app.joins.cancel("BOOK-1", "it was found")
    stage.deliver(lent(1))
    assert list(stage.app.joins) == []

    stage.deliver(lent(2))
    stage.deliver(returned(2))

    assert ended(stage) == [["lent-2", "returned-2"]]


def test_a_program_that_cancels_a_round_remembers_its_events_as_long_as_the_service_does():
    stage = Stage(library())
    stage.deliver(lent(1))
    store = copy(stage.store)
    store.terms = Terms(retention=timedelta(hours=1))
    Joins(store, str).cancel("BOOK-1", "it was found")

    stage.pass_time(7200)
    stage.deliver(lent(1))

    assert list(stage.app.joins) == []


def test_a_round_that_failed_is_replayed_when_no_other_is_pending():
    stage = Stage(library(fail=[PermanentFailure("no ink")]))
    stage.deliver(lent(1))
    stage.deliver(returned(1))
    (letter,) = stage.dead_letters
    stage.deliver(lent(2))

    with pytest.raises(DeadLetterError, match=r"waits for other events with the key 'BOOK-1'.*joins show BOOK-1"):
        stage.app.dead_letters.replay(letter.id)
    stage.deliver(returned(2))
    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(1)

    assert ended(stage) == [["lent-2", "returned-2"], ["lent-1", "returned-1"]]
    assert stage.dead_letters == []


def test_rounds_can_have_several_events_of_a_type():
    app = service("library")

    @app.join(BookLent, Several(BookReturned, 2), rounds=True)
    def end_loan(loan: BookLent, back: list[BookReturned]) -> LoanEnded:
        return LoanEnded(parts=[loan.meta.id, *(event.meta.id for event in back)])

    stage = Stage(app)
    for number in (1, 2):
        for part in (returned(2 * number), lent(number), returned(2 * number + 1)):
            stage.deliver(part)

    assert ended(stage) == [["lent-1", "returned-2", "returned-3"], ["lent-2", "returned-4", "returned-5"]]


def test_rounds_that_begin_with_a_deployment_continue_the_joins_that_are_there():
    stage = Stage(library(rounds=False))
    stage.deliver(lent(1))
    stage.deliver(returned(1))
    stage.deliver(lent(1, "BOOK-2"))

    library_of_today = library()
    stage.app.subscriptions[:] = library_of_today.subscriptions
    stage.app.tasks["library.end_loan"].subscription = library_of_today.subscriptions[0]
    for part in (lent(1), returned(1), lent(2), returned(2), lent(1, "BOOK-2"), returned(1, "BOOK-2")):
        stage.deliver(part)

    assert ended(stage) == [["lent-1", "returned-1"], ["lent-2", "returned-2"], ["lent-1", "returned-1"]]


def test_the_stage_plays_rounds():
    platform = stage_of(library())
    for _ in range(2):
        platform.publish(BookLent(), subject="BOOK-1")
        platform.publish(BookReturned(), subject="BOOK-1")
    platform.run()
    platform.advance(seconds=HELD)

    assert len(platform.announced(LoanEnded, "BOOK-1")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": "yes"}, "rounds='yes' is neither True nor False"),
        ({"rounds": True, "at_least": 1}, "rounds=True does not go with at_least=1"),
    ],
)
def test_rounds_that_cannot_work_are_refused(options, message):
    with pytest.raises(DeclarationError, match=message):

        @service("library").join(BookLent, BookReturned, **options)
        def end_loan(loan: BookLent | None, back: BookReturned | None) -> None: ...


# -- a join without rounds --------------------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of joins."""
    return [record.getMessage() for record in caplog.records if record.name == "choreo.delivery.join"]


def test_a_new_event_of_a_settled_key_is_ignored_with_a_warning_that_names_the_way_out(caplog):
    stage = Stage(library(rounds=False))
    stage.deliver(lent(1))
    stage.deliver(returned(1))
    stage.deliver(lent(2))

    (warning,) = warnings(caplog)
    assert warning.startswith(
        "library.end_loan(book.lent BOOK-1) (id lent-2) came too late: the join with the key 'BOOK-1' is settled"
    )
    assert "rounds=True" in warning


def test_a_new_event_is_warned_of_while_the_join_waits_for_another_or_for_its_next_attempt(caplog):
    stage = Stage(library(rounds=False, fail=[RetryLater(5)], retry=Retry(times=1)))
    stage.deliver(lent(1))
    stage.deliver(lent(2))
    stage.deliver(returned(1))
    stage.deliver(returned(2))

    first, second = warnings(caplog)
    assert "(id lent-2) is ignored: the join with the key 'BOOK-1' has enough events of this type" in first
    assert "(id returned-2) came too late: the join with the key 'BOOK-1' is complete" in second


@pytest.mark.parametrize("why", ["it came before", "it was cancelled", "it is a quorum", "it was delivered before"])
def test_an_event_that_is_expected_to_come_late_is_no_warning(caplog, why):
    app = service("library")
    quorum = {"at_least": 1} if why == "it is a quorum" else {}

    @app.join(BookLent, BookReturned, unless=BookLost, **quorum)
    def end_loan(loan: BookLent | None, back: BookReturned | None) -> None: ...

    stage = Stage(app)
    stage.deliver(lent(1))
    if why == "it was cancelled":
        stage.deliver(envelope(BookLost(), subject="BOOK-1"))
    for part in (returned(1), returned(1), lent(1)):
        stage.deliver(part)
    if why == "it was delivered before":
        task = app.tasks["library.end_loan"]
        task.make_delivery(lent(2), 1, redelivered=True).live()

    assert warnings(caplog) == []
