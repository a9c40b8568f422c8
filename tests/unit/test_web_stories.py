"""The pages Stories and Joins, asked without a socket."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from choreo.operate.schedule import Entry
from choreo.store.runs import Recording
from choreo.testing import Stage
from choreo.web.site import Site
from tests.unit.browser import Browser
from tests.unit.stage import service
from tests.unit.test_printing import HOSTILE
from tests.unit.test_trace import (
    BallReturned,
    DriverAssigned,
    Operator,
    OrderDelayed,
    OrderPlaced,
    ParcelSent,
    PaymentCharged,
)

#: A subject that would be markup if it were not escaped.
MARKUP = "<script>alert('1')</script>"
#: An event with half a surrogate pair cannot be sent.
WRITABLE = [text for text in HOSTILE.values() if text == text.encode(errors="replace").decode()]


@pytest.fixture
def operator() -> Iterator[Operator]:
    found = Operator()
    yield found
    found.stage.__exit__(None, None, None)


@pytest.fixture
def browser(operator: Operator) -> Browser:
    return Browser(Site(operator.app, allows_changes=True))


@pytest.fixture
def reader(operator: Operator) -> Browser:
    return Browser(Site(operator.app))


def retry_of(operator: Operator, subject: str) -> Entry:
    """The retry that the schedule has for this order, beside the deadline of its join."""
    (retry,) = [entry for entry in operator.app.schedule.find(subject) if entry.kind == "retry"]
    return retry


# -- stories -----------------------------------------------------------------------------------------------------


def test_an_order_is_found_and_its_story_is_told(operator: Operator, browser: Browser):
    operator.placed("ORD-1")

    page = browser.get("/stories", q="ORD-1")

    assert page.status == 200
    assert "ORD-1 done" in page.words
    for told in ("order.placed", "payment.charge", "driver.assign", "driver.assigned"):
        assert told in page.words
    whole = browser.get("/stories", q="ORD-1", all="1")
    # It hears everything.
    assert whole.words.count("analytics.count") > page.words.count("analytics.count")


def test_what_is_stuck_is_told_with_its_cause_and_the_next_step(operator: Operator, browser: Browser):
    operator.placed("ORD-quiet")

    page = browser.get("/stories", q="ORD-quiet")

    assert "ORD-quiet stuck" in page.words
    assert "payment.charge handled order.placed" in page.words
    assert "choreo publish payment.charged --caused-by" in page.words
    assert "/joins/driver.assign/ORD-quiet" in page.links


def test_a_dead_letter_is_linked(operator: Operator, browser: Browser):
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters

    page = browser.get("/stories", q="ORD-frozen")

    assert f"/dead-letters/{letter.id}" in page.links
    assert "the account is frozen" in page.words


@pytest.mark.parametrize("what", ["id", "correlation_id", "letter"])
def test_a_story_is_found_by_any_of_its_ids(operator: Operator, browser: Browser, what: str):
    event = operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters

    page = browser.get("/stories", q=letter.id if what == "letter" else getattr(event, what))

    assert "payment.charge" in page.words
    assert "read as the id of a" in page.words or what == "id"


def test_a_retry_is_hurried_or_dropped_from_the_story(operator: Operator, browser: Browser):
    operator.placed("ORD-later-1")
    operator.placed("ORD-later-2")
    one, other = retry_of(operator, "ORD-later-1"), retry_of(operator, "ORD-later-2")

    assert "Now The attempt is due now" in browser.get("/stories", q="ORD-later-1").words
    told = browser.follow(browser.post(f"/schedule/{one.id}", do="now", reason="the provider is open"))
    dropped = browser.follow(browser.post(f"/schedule/{other.id}", do="drop", reason="not wanted"))

    assert "payment.charge ORD-later-1: it is due now." in told.words
    (letter,) = operator.app.dead_letters
    assert letter.subject == "ORD-later-2"
    assert f"its event is dead letter {letter.id}" in dropped.words
    assert [repair.action for repair in operator.app.repairs.recent()] == ["dropped", "hurried"]


def test_a_delayed_event_is_called_off(operator: Operator, browser: Browser):
    operator.stage.publish(ParcelSent(), "ORD-1", delay=600)
    (entry,) = operator.app.schedule.find("ORD-1")
    browser.get("/stories", q="ORD-1")

    told = browser.follow(browser.post(f"/schedule/{entry.id}", do="drop", reason="the parcel is lost"))

    assert "dropped, and its event is not announced" in told.words
    assert operator.app.schedule.find("ORD-1") == []


def test_a_handler_runs_again_and_what_that_means_is_said_first():
    payment, runs = service("payment"), []

    @payment.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged | None:
        runs.append(order)
        return PaymentCharged() if len(runs) > 1 else None

    with Stage(payment) as stage:
        payment.runtime.store._recording = Recording(events=True)
        event = stage.publish(OrderPlaced(), "ORD-1")
        stage.run()
        browser = Browser(Site(payment, allows_changes=True))
        (link,) = [one for one in browser.get("/stories", q="ORD-1", all="1").links if "/rerun/payment.charge/" in one]
        page = browser.get(link)
        told = browser.follow(browser.post(link, reason="it is mended"))
        stage.run()

        assert link == f"/rerun/payment.charge/{event.id}"
        assert "payment.charge handles order.placed ORD-1 again" in page.words
        assert "the idempotency key, which stays" in page.words
        assert "payment.charge: runs again for ORD-1." in told.words
        assert len(stage.announced(PaymentCharged, "ORD-1")) == 1
        (repair,) = payment.repairs.recent()
        assert (repair.action, repair.reason) == ("rerun", "it is mended")


def test_a_run_that_cannot_be_made_again_says_why(operator: Operator, browser: Browser):
    page = browser.get("/rerun/payment.charge/ORD-none")

    assert page.status == 400
    assert "ORD-none" in page.words


def test_what_to_do_with_an_entry_is_said(operator: Operator, browser: Browser):
    operator.placed("ORD-later")
    entry = retry_of(operator, "ORD-later")
    browser.get("/stories", q="ORD-later")

    assert browser.post(f"/schedule/{entry.id}", do="explode", reason="x").status == 400
    assert "has no entry '0123456789'" in browser.post("/schedule/0123456789", do="now", reason="x").words


def test_it_is_asked_why_an_event_was_not_announced(operator: Operator, browser: Browser):
    operator.placed("ORD-quiet")

    page = browser.get("/stories", q="ORD-quiet", why="payment.charged")

    assert "Cause payment.charge handled order.placed" in page.words
    assert "NO payment.charged" in page.words


def test_nothing_is_known_of_an_order(browser: Browser):
    page = browser.get("/stories", q="ORD-none")

    assert page.status == 404
    assert "Nothing is known of ORD-none" in page.words


@pytest.mark.parametrize("subject", [MARKUP, "X" * 60, "a/b?c=d&e#f", *WRITABLE])
def test_foreign_texts_are_shown_as_they_are_and_never_as_markup(operator: Operator, browser: Browser, subject: str):
    operator.placed(subject)

    listed, told = browser.get("/stories"), browser.get("/stories", q=subject)

    assert listed.status == told.status == 200
    assert "<script>alert" not in listed.text + told.text
    link = next(link for link in listed.links if link.startswith("/stories?q="))
    assert browser.get(link).text == told.text


def test_the_newest_stories_are_listed(operator: Operator, browser: Browser):
    assert "Nothing has happened" in browser.get("/stories").words
    operator.placed("ORD-1")
    operator.stage.advance(timedelta(seconds=5))
    operator.placed("ORD-frozen")

    page = browser.get("/stories")

    assert page.links.index("/stories?q=ORD-frozen") < page.links.index("/stories?q=ORD-1")
    assert "dead letter payment.charge" in page.words


def test_a_long_story_is_cut_and_all_of_it_is_a_link_away(operator: Operator, browser: Browser):
    operator.stage.publish(BallReturned(number=150), "LONG")
    operator.stage.run()

    page = browser.get("/stories", q="LONG")

    assert page.text.count("<tr class=") == 200
    more = next(link for link in page.links if "all=1" in link)
    assert browser.get(more).text.count("<tr class=") > 300


# -- joins -------------------------------------------------------------------------------------------------------


def test_joins_that_wait_are_listed_and_found_by_their_key(operator: Operator, browser: Browser):
    operator.placed("ORD-quiet")

    assert "ORD-quiet payment.charged order.confirmed" in browser.get("/joins").words
    assert "/joins/driver.assign/ORD-quiet" in browser.get("/joins", q="ORD-quiet").links
    assert "No join waits for ORD-none" in browser.get("/joins", q="ORD-none").words
    assert browser.get("/joins", handler="driver.nobody").status == 404


def test_a_handler_with_many_joins_is_paged(operator: Operator, browser: Browser):
    for number in range(120):
        operator.placed(f"ORD-quiet-{number}")

    first = browser.get("/joins", handler="driver.assign")
    (more,) = [link for link in first.links if "after=" in link]
    second = browser.get(more)

    keys = [link for page in (first, second) for link in page.links if link.startswith("/joins/driver.assign/")]
    assert len(set(keys)) == 120
    assert [link for link in second.links if "after=" in link] == []


def test_a_join_tells_what_it_has_and_what_it_waits_for(operator: Operator, browser: Browser):
    operator.placed("ORD-quiet")

    page = browser.get("/joins/driver.assign/ORD-quiet")

    assert "Waits for payment.charged why not?" in page.words
    assert "order.confirmed" in page.words
    assert "/stories?q=ORD-quiet&why=payment.charged#why-not" in page.links


def test_a_join_is_fired_by_hand_with_a_reason(operator: Operator, browser: Browser):
    operator.placed("ORD-quiet")
    page = browser.get("/joins/driver.assign/ORD-quiet")

    told = browser.follow(browser.post("/joins/driver.assign/ORD-quiet", do="fire", reason="the money is here"))
    operator.stage.run()

    assert "Fire it now" in page.words
    assert "driver.assign ORD-quiet: it runs with the events that have arrived" in told.words
    assert len(operator.stage.announced(DriverAssigned, "ORD-quiet")) == 1
    (repair,) = operator.app.repairs.recent()
    assert (repair.action, repair.target, repair.reason) == ("fired", "driver.assign ORD-quiet", "the money is here")


def test_a_join_is_ended_as_at_its_deadline_or_cancelled(operator: Operator, browser: Browser):
    operator.placed("ORD-quiet-1")
    operator.placed("ORD-quiet-2")
    browser.get("/joins/driver.assign/ORD-quiet-1")

    browser.follow(browser.post("/joins/driver.assign/ORD-quiet-1", do="timeout", reason="enough"))
    browser.follow(browser.post("/joins/driver.assign/ORD-quiet-2", do="cancel", reason="enough"))
    operator.stage.run()

    assert operator.app.joins.find("ORD-quiet-2") == []
    assert len(operator.stage.announced(OrderDelayed, "ORD-quiet-1")) == 1
    assert browser.get("/joins/driver.assign/ORD-quiet-2").status == 404


@pytest.mark.parametrize(("form", "status"), [({"do": "fire"}, 400), ({"reason": "x", "do": "explode"}, 400)])
def test_a_change_needs_a_reason_and_a_known_word(operator: Operator, browser: Browser, form: dict, status: int):
    operator.placed("ORD-quiet")
    browser.get("/joins/driver.assign/ORD-quiet")

    assert browser.post("/joins/driver.assign/ORD-quiet", **form).status == status
    assert len(operator.app.joins.find("ORD-quiet")) == 1


def test_pages_that_only_read_show_the_command_and_refuse_the_form(operator: Operator, reader: Browser):
    operator.placed("ORD-quiet")

    page = reader.get("/joins/driver.assign/ORD-quiet")

    assert "choreo joins cancel ORD-quiet --handler driver.assign" in page.words
    assert '<form method="post"' not in page.text
    reader.get("/stories")
    assert reader.post("/joins/driver.assign/ORD-quiet", do="cancel", reason="x").status == 403
    assert len(operator.app.joins.find("ORD-quiet")) == 1


def test_a_platform_without_anything(operator: Operator):
    empty = Browser(Site(service("nobody")))

    assert "No joins are known" in empty.get("/joins").words
    assert "Nothing has happened" in empty.get("/stories").words


def test_a_key_with_a_slash_is_a_key(operator: Operator, browser: Browser):
    operator.placed("quiet/7?")

    (link,) = {link for link in browser.get("/joins").links if link.startswith("/joins/driver")}

    assert browser.get(link).status == 200
