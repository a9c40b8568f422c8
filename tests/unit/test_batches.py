"""Batch handlers on a stage: what they are called with, what is committed, and what a failure costs."""

import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from pydantic import BaseModel

from choreo import Batch, Context, Envelope, Event, PermanentFailure, Reason, Retry, RetryLater, Service
from choreo.declare.around import Proceed
from choreo.errors import DeclarationError, HandlerTimeoutError, InvalidEventError
from choreo.testing import Stage, stage


class BookSold(Event, type="batches.book_sold"):
    number: int = 0


class BookReturned(Event, type="batches.book_returned"):
    number: int = 0


class BookIndexed(Event, type="batches.book_indexed"):
    number: int = 0


class Number(BaseModel):
    number: int


NEVER = Retry(times=0)


@pytest.fixture
def app() -> Service:
    return Service("search", config=None, set_as_current=False)


@pytest.fixture
def calls() -> list[list[int]]:
    return []


def sold(app: Service, count: int, **options) -> Stage:
    platform = stage(app, **options)
    for number in range(count):
        platform.publish(BookSold(number=number), subject=f"B-{number}")
    return platform


def declare(app: Service, calls: list[list[int]], *, poison: set[int] = frozenset(), error=ValueError, **options):
    @app.on(BookSold, **{"batch": Batch(size=100), **options})
    def index(books: list[BookSold]) -> None:
        calls.append([book.number for book in books])
        if bad := poison.intersection(book.number for book in books):
            raise error(f"cannot read {sorted(bad)}")


def test_a_handler_gets_what_waits_in_the_order_in_which_it_came(app, calls):
    declare(app, calls)
    platform = sold(app, 5)

    assert platform.run() == 5

    assert calls == [[0, 1, 2, 3, 4]]
    assert [one.outcome for one in platform.deliveries] == ["done"] * 5


def test_no_batch_is_larger_than_its_size(app, calls):
    declare(app, calls, batch=Batch(size=2))

    sold(app, 5).run()

    assert calls == [[0, 1], [2, 3], [4]]


def test_a_batch_waits_on_a_stage_until_nothing_else_is_left(app, calls):
    declare(app, calls, batch=Batch(size=10))

    @app.on(BookReturned)
    def sell_again(returned: BookReturned) -> BookSold:
        return BookSold(number=returned.number)

    platform = sold(app, 2)
    platform.publish(BookReturned(number=7), subject="B-7")
    platform.run()

    assert calls == [[0, 1, 7]]


@pytest.mark.parametrize("annotation", [list[Envelope], list[BookSold | BookReturned], list[Number]])
def test_a_batch_takes_envelopes_several_types_and_views(app, annotation):
    got = []

    def index(books) -> None:
        got.append(books)

    index.__annotations__ = {"books": annotation, "return": None}
    app.on(BookSold, BookReturned, batch=Batch(size=10))(index)
    platform = sold(app, 1)
    platform.publish(BookReturned(number=1), subject="B-1")
    platform.run()

    ((first, second),) = got
    numbers = [one.data["number"] if isinstance(one, Envelope) else one.number for one in (first, second)]
    assert numbers == [0, 1]


def test_after_the_time_limit_of_a_coroutine_each_event_runs_alone(app, calls):
    declare(app, calls, poison={1}, error=HandlerTimeoutError, retry=NEVER)

    platform = sold(app, 4)
    platform.run()

    assert calls[0] == [0, 1, 2, 3]
    assert sorted(calls[1:]) == [[0], [1], [2], [3]]
    (letter,) = platform.dead_letters
    assert letter.envelopes[0].data == {"number": 1}


def test_an_event_that_came_twice_is_in_a_batch_once(app, calls):
    declare(app, calls)
    platform = sold(app, 2)
    platform.publish(platform.events[0])
    platform.run()
    platform.publish(platform.events[1])
    platform.run()

    assert calls == [[0, 1]]
    assert [one.outcome for one in platform.deliveries] == ["done", "done", "done before", "done before"]


# -- failures ----------------------------------------------------------------------------------------------------------


def test_only_the_event_that_fails_alone_is_retried_and_becomes_a_dead_letter(app, calls):
    declare(app, calls, poison={37}, retry=Retry(times=2, first=1, cap=1))
    platform = sold(app, 100)
    platform.run()

    assert len(calls) <= 15, "one call, and two for each time that the batch is halved"
    assert sum(1 for one in platform.deliveries if one.outcome == "done") == 99
    before = len(calls)
    platform.advance(minutes=1)
    assert calls[before:] == [[37], [37]], "its retries run alone"
    (letter,) = platform.dead_letters
    assert (letter.subject, letter.attempts, letter.reason) == ("B-37", 3, Reason.EXHAUSTED)


def test_two_that_fail_in_one_batch_do_not_hurt_the_others(app, calls):
    declare(app, calls, poison={0, 99}, retry=NEVER)
    platform = sold(app, 100)
    platform.run()

    assert sorted(letter.subject for letter in platform.dead_letters) == ["B-0", "B-99"]
    assert sum(1 for one in platform.deliveries if one.outcome == "done") == 98


def test_if_all_fail_each_is_called_once_alone(app, calls):
    declare(app, calls, poison=set(range(64)), retry=NEVER)
    platform = sold(app, 64)
    platform.run()

    assert len(platform.dead_letters) == 64
    alone = [call for call in calls if len(call) == 1]
    assert len(alone) == 64
    assert len(calls) == 64 + 6, "only the halves on the way to the first one are called in vain"


def test_a_permanent_failure_is_that_of_the_event_that_fails_alone(app, calls):
    declare(app, calls, poison={2}, error=PermanentFailure)
    platform = sold(app, 4)
    platform.run()

    (letter,) = platform.dead_letters
    assert (letter.subject, letter.reason, letter.attempts) == ("B-2", Reason.REFUSED, 1)


def test_an_event_that_does_not_fit_is_no_failure_of_the_others(app, calls):
    declare(app, calls)
    platform = sold(app, 3)
    strange = platform.publish(BookSold(number=9), subject="B-9")
    strange.data["number"] = "many"
    platform.publish(strange)
    platform.run()

    numbers = [number for call in calls for number in call]
    assert sorted(set(numbers)) == [0, 1, 2, 9]


def test_a_handler_can_say_which_events_have_failed(app):
    calls = []

    @app.on(BookSold, batch=Batch(size=10), retry=Retry(times=1, first=1, cap=1))
    def index(books: list[BookSold], context: Context) -> list[BookIndexed]:
        calls.append([book.number for book in books])
        for book in books:
            if book.number == 1:
                context.fail(book, ValueError("no such shelf"))
            else:
                context.announce(BookIndexed(number=book.number), because=book)
        return []

    platform = sold(app, 3)
    platform.run()

    assert calls == [[0, 1, 2]], "the others need no other call"
    assert [event.number for event in platform.announced(BookIndexed)] == [0, 2]
    platform.advance(minutes=1)
    assert calls == [[0, 1, 2], [1]]
    (letter,) = platform.dead_letters
    assert (letter.subject, letter.attempts, letter.error) == ("B-1", 2, "ValueError: no such shelf")


def test_what_an_event_that_fails_would_have_caused_does_not_leave(app):
    @app.on(BookSold, batch=Batch(size=10), retry=NEVER)
    def index(books: list[BookSold], context: Context) -> Iterator[BookIndexed]:
        for book in books:
            context.announce(BookIndexed(number=book.number), because=book)
        context.fail(books[0], ValueError("no"))
        yield from ()

    platform = sold(app, 2)
    platform.run()

    assert [event.number for event in platform.announced(BookIndexed)] == [1]


def test_retry_later_is_for_the_event_that_fails_alone(app, calls):
    attempts = []

    @app.on(BookSold, batch=Batch(size=10))
    def index(books: list[BookSold], context: Context) -> None:
        attempts.append((len(books), context.attempt))
        if any(book.number == 1 for book in books) and context.attempt == 1:
            raise RetryLater(60)

    platform = sold(app, 2)
    platform.run()
    platform.advance(timedelta(seconds=59))
    assert attempts == [(2, 1), (1, 1), (1, 1)]
    platform.advance(timedelta(seconds=2))
    assert attempts[3:] == [(1, 2)]


# -- announcing --------------------------------------------------------------------------------------------------------


def test_an_event_belongs_to_the_story_of_the_one_that_causes_it(app):
    @app.on(BookSold, batch=Batch(size=10))
    def index(books: list[BookSold], context: Context) -> BookIndexed:
        for book in books:
            context.announce(BookIndexed(number=book.number), because=book)
        context.announce(BookIndexed(number=10), because=context.events[0])
        return BookIndexed(number=99)

    platform = sold(app, 2)
    first, second = platform.events
    platform.run()

    caused = {event.data["number"]: event for event in platform.events[2:]}
    assert (caused[0].causation_id, caused[0].correlation_id, caused[0].subject) == (first.id, first.id, "B-0")
    assert (caused[1].causation_id, caused[1].correlation_id, caused[1].subject) == (second.id, second.id, "B-1")
    assert caused[10].causation_id == first.id
    assert (caused[99].causation_id, caused[99].subject) == (second.id, ""), "of the batch: the last one is its cause"
    assert len({event.id for event in caused.values()}) == 4


def test_what_one_event_causes_has_the_same_id_in_any_batch(app):
    ids = []

    @app.on(BookSold, batch=Batch(size=10), retry=Retry(times=1, first=1, cap=1))
    def index(books: list[BookSold], context: Context) -> None:
        ids.append([context.announce(BookIndexed(), because=book).id for book in books])
        if len(books) > 1:
            raise ValueError("not together")

    platform = sold(app, 2)
    platform.run()

    assert ids[1] + ids[2] == ids[0]


def test_a_batch_inherits_the_metadata_that_all_its_events_have(app):
    seen = []

    @app.on(BookSold, batch=Batch(size=10))
    def index(books: list[BookSold], context: Context) -> BookIndexed:
        seen.append((context.meta, context.subject, len(context.events)))
        context.announce(BookIndexed(number=1), because=books[1])
        return BookIndexed(number=2)

    platform = stage(app)
    for tenant in ("alice", "bob"):
        platform.publish(BookSold(), subject="B", meta={"tenant": tenant, "region": "eu"})
    platform.run()

    assert seen == [({"region": "eu"}, "B", 2)]
    own, whole = sorted(platform.events[2:], key=lambda event: event.data["number"])
    assert (own.extensions["tenant"], "tenant" in whole.extensions) == ("bob", False)


def test_because_and_fail_name_an_event_of_the_batch(app):
    errors = []

    @app.on(BookSold, batch=Batch(size=10))
    def index(books: list[BookSold], context: Context) -> None:
        for wrong in (BookSold(number=1), BookIndexed()):
            with pytest.raises(InvalidEventError, match=r"no event of this batch of search\.index"):
                context.announce(BookIndexed(), because=wrong)
        with pytest.raises(InvalidEventError, match="no exception"):
            context.fail(books[0], "broken")
        errors.append(1)

    @app.on(BookReturned)
    def take_back(returned: BookReturned, context: Context) -> None:
        with pytest.raises(InvalidEventError, match=r"search\.take_back is called with one event"):
            context.announce(BookIndexed(), because=returned)
        errors.append(2)

    platform = sold(app, 1)
    platform.publish(BookReturned())
    platform.run()

    assert sorted(errors) == [1, 2]
    assert not platform.dead_letters


# -- around it ---------------------------------------------------------------------------------------------------------


def test_middleware_is_called_once_for_a_batch(app, calls):
    seen = []

    @app.around
    def watch(context: Context, proceed: Proceed) -> None:
        seen.append(len(context.events))
        proceed()

    declare(app, calls)
    sold(app, 3).run()

    assert seen == [3]


def test_the_log_has_one_line_for_a_batch(app, calls, caplog):
    declare(app, calls)
    with caplog.at_level(logging.INFO, logger="choreo.runs"):
        sold(app, 3).run()

    (line,) = [record for record in caplog.records if record.name == "choreo.runs"]
    assert line.getMessage().startswith("search.index(3 batches.book_sold): done in ")
    assert (line.batch, line.handler) == (3, "search.index")


def test_each_event_of_a_batch_is_in_the_record_of_runs(app, calls):
    declare(app, calls)
    platform = sold(app, 3)
    platform.run()

    with platform:
        found = app.runtime.store.recent("search.index", 3600)
    assert sorted(run.subject for run in found) == ["B-0", "B-1", "B-2"]


# -- declaring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 1001, 2.5, True, "100"])
def test_a_size_that_cannot_work_is_refused(size):
    with pytest.raises(DeclarationError, match=r"from 1 to 1,000"):
        Batch(size=size)


@pytest.mark.parametrize("wait", [-1, 61, float("nan"), True, "soon", timedelta(seconds=1)])
def test_a_wait_that_cannot_work_is_refused(wait):
    with pytest.raises(DeclarationError, match="from 0 to 60"):
        Batch(wait=wait)


def test_a_list_without_batch_and_a_batch_without_list_are_refused(app):
    with pytest.raises(DeclarationError, match=r"batch=Batch\(size=100, wait=0.2\)"):

        @app.on(BookSold)
        def index(books: list[BookSold]) -> None: ...

    with pytest.raises(DeclarationError, match=r"Write book: list\[BookSold\]"):

        @app.on(BookSold, batch=Batch())
        def index_one(book: BookSold) -> None: ...

    with pytest.raises(DeclarationError, match=r"batch=100 is not a Batch. Write batch=Batch\(size=100\)"):

        @app.on(BookSold, batch=100)
        def index_some(books: list[BookSold]) -> None: ...


def test_undoes_and_joins_do_not_go_with_a_batch(app):
    @app.on(BookSold)
    def charge(book: BookSold) -> BookIndexed:
        return BookIndexed()

    with pytest.raises(DeclarationError, match="undoes=charge does not go with batch"):

        @app.on(BookReturned, undoes=charge, batch=Batch())
        def refund(indexed: BookIndexed) -> None: ...

    with pytest.raises(DeclarationError, match=r"@app.join\(batch=...\): only a handler of single events"):
        app.join(BookSold, BookReturned, batch=Batch())
