"""The pages about dead letters, asked without a socket."""

import re
from collections.abc import Iterator

import pytest

from choreo import DeadLetter
from choreo.events.message import Message
from choreo.web.site import Site
from tests.unit.browser import Browser
from tests.unit.stage import service
from tests.unit.test_trace import Operator
from tests.waiting import eventually

MARKUP = "<script>alert('frozen')</script>"


@pytest.fixture
def operator() -> Iterator[Operator]:
    found = Operator()
    yield found
    found.stage.__exit__(None, None, None)


@pytest.fixture
def site(operator: Operator) -> Iterator[Site]:
    found = Site(operator.app, allows_changes=True)
    yield found
    found.close()


@pytest.fixture
def browser(site: Site) -> Browser:
    return Browser(site)


def group_of(browser: Browser, **query: str) -> str:
    """The address of the only group."""
    (link,) = [link for link in browser.get("/dead-letters", **query).links if "/groups/" in link]
    return link


def ended(site: Site) -> None:
    eventually(lambda: all(job.is_over for job in site.jobs))


def test_a_platform_without_dead_letters():
    assert "There are no dead letters" in Browser(Site(service("nobody"))).get("/dead-letters").words


def test_letters_come_in_groups_of_one_cause(operator: Operator, browser: Browser):
    for number in range(3):
        operator.placed(f"ORD-frozen-{number}")

    page = browser.get("/dead-letters")

    assert "3 letters in 1 group" in page.words
    assert "the account is frozen 3 payment.charge refused" in page.words
    letters = browser.get(group_of(browser))
    assert re.findall(r"ORD-frozen-\d", letters.text)[::2] == ["ORD-frozen-0", "ORD-frozen-1", "ORD-frozen-2"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"handler": "payment"}, 2),
        ({"handler": "payment.charge"}, 2),
        ({"handler": "driver"}, 0),
        ({"cause": "PermanentFailure"}, 2),
        ({"cause": "KeyError"}, 0),
        ({"subject": "ORD-frozen-1"}, 1),
        ({"since": "1 hour"}, 2),
        ({"since": "a while"}, 2),
    ],
)
def test_letters_are_filtered(operator: Operator, browser: Browser, query: dict[str, str], count: int):
    operator.placed("ORD-frozen-1")
    operator.placed("ORD-frozen-2")

    words = browser.get("/dead-letters", **query).words

    assert (f"{count} letter" in words) if count else "No dead letter is like that" in words
    listed = browser.get("/dead-letters/list", **query)
    assert len({link for link in listed.links if re.fullmatch(r"/dead-letters/[0-9a-f]{10}", link)}) == count


def test_a_group_with_many_letters_is_paged(operator: Operator, browser: Browser):
    for number in range(120):
        operator.placed(f"ORD-frozen-{number}")

    seen: list[str] = []
    links = [group_of(browser)]
    for link in links:
        page = browser.get(link)
        seen += [one for one in page.links if re.fullmatch(r"/dead-letters/[0-9a-f]{10}", one)]
        links += [one for one in page.links if "after=" in one]

    assert len(links) == 3
    assert len(seen) == len(set(seen)) == 120


def test_what_is_replayed_to_a_paused_handler_waits_and_that_is_said(operator: Operator, browser: Browser, site: Site):
    operator.placed("ORD-frozen-1")
    operator.app.pauses.pause("payment.charge")
    link = group_of(browser)
    browser.get(link)

    told = browser.follow(browser.post(link, do="replay", reason="it is thawed"))
    ended(site)

    assert "payment.charge is paused: this waits in its queue until it is resumed." in told.words


def test_a_group_is_replayed_with_a_reason(operator: Operator, browser: Browser, site: Site):
    operator.placed("ORD-frozen-1")
    operator.placed("ORD-frozen-2")
    link = group_of(browser)
    browser.get(link)

    told = browser.follow(browser.post(link, do="replay", reason="it is thawed"))
    ended(site)

    assert "Replay of 2 dead letters has begun" in told.words
    assert list(operator.app.dead_letters) == []
    (job,) = site.jobs
    assert (job.state, job.reason, job.step.done) == ("done", "it is thawed", 2)
    assert "2 of 2" in browser.get("/dead-letters").words
    (repair, *_) = operator.app.repairs.recent()
    assert (repair.action, repair.count, repair.reason) == ("replayed", 2, "it is thawed")


def test_only_what_the_filter_lets_through_is_replayed_or_discarded(operator: Operator, browser: Browser, site: Site):
    operator.placed("ORD-frozen-1")
    operator.placed("ORD-frozen-2")
    link = group_of(browser, subject="ORD-frozen-1")
    page = browser.get(link)
    assert "of those that the filter lets through" in page.words

    browser.follow(browser.post(link, do="discard", reason="a test order"))
    ended(site)

    assert [letter.subject for letter in operator.app.dead_letters] == ["ORD-frozen-2"]


def test_a_group_that_is_gone_says_so(operator: Operator, browser: Browser, site: Site):
    operator.placed("ORD-frozen")
    link = group_of(browser)
    for letter in operator.app.dead_letters:
        operator.app.dead_letters.discard(letter.id)

    page = browser.get(link)

    assert page.status == 404
    assert "No dead letter is left in this group" in page.words
    browser.get("/dead-letters")


@pytest.mark.parametrize("form", [{"do": "replay"}, {"do": "explode", "reason": "x"}, {"reason": "x"}])
def test_a_change_of_a_group_needs_a_reason_and_a_known_word(operator: Operator, browser: Browser, form: dict):
    operator.placed("ORD-frozen")
    link = group_of(browser)
    browser.get(link)

    assert browser.post(link, **form).status == 400
    assert len(list(operator.app.dead_letters)) == 1


def test_a_letter_tells_its_event_its_error_and_its_traceback(operator: Operator, browser: Browser):
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters

    page = browser.get(f"/dead-letters/{letter.id}")

    for told in ("ORD-frozen refused", "PermanentFailure: the account is frozen", "Traceback", "order.placed"):
        assert told in page.words
    assert f"/stories?q={letter.id}" in page.links
    assert f"/dead-letters/groups/{letter.group}" in page.links


def test_a_letter_is_replayed_or_discarded_with_a_reason(operator: Operator, browser: Browser):
    operator.placed("ORD-frozen-1")
    operator.placed("ORD-frozen-2")
    one, other = operator.app.dead_letters
    browser.get(f"/dead-letters/{one.id}")

    told = browser.follow(browser.post(f"/dead-letters/{one.id}", do="replay", reason="thawed"))
    gone = browser.follow(browser.post(f"/dead-letters/{other.id}", do="discard", reason="a test"))

    assert "order.placed ORD-frozen-1 goes to payment.charge again" in told.words
    assert f"Dead letter {other.id} (order.placed ORD-frozen-2) is discarded" in gone.words
    assert [(one.action, one.reason) for one in operator.app.repairs.recent()] == [
        ("discarded", "a test"),
        ("replayed", "thawed"),
    ]


def test_a_letter_is_edited_where_that_is_allowed(
    operator: Operator, browser: Browser, monkeypatch: pytest.MonkeyPatch
):
    # Other tests declare other classes of this type, with fields that this one has not.
    monkeypatch.setattr("choreo.events.event.known_events", dict)
    operator.placed("ORD-frozen-1")
    (letter,) = operator.app.dead_letters
    path = f"/dead-letters/{letter.id}"
    assert "Edit it" not in browser.get(path).text
    refused = browser.post(path, do="edit", reason="a typo", data="{}")
    assert (refused.status, "choreo_allow_edit = True" in refused.words) == (400, True)

    operator.app.conf.choreo_allow_edit = True
    assert "Edit it" in browser.get(path).text
    for wrong, why in (("[1]", "a JSON object"), ("{", "no JSON")):
        answer = browser.post(path, do="edit", reason="a typo", data=wrong)
        assert (answer.status, why in answer.words) == (400, True)
    assert [one.id for one in operator.app.dead_letters] == [letter.id]
    told = browser.follow(browser.post(path, do="edit", reason="a typo", data='{"note": "thawed"}'))

    assert f"goes to payment.charge in place of dead letter {letter.id}" in told.words
    assert [(one.action, one.reason) for one in operator.app.repairs.recent()] == [("edited", "a typo")]
    assert list(operator.app.dead_letters) == []


def test_a_letter_that_is_gone_says_so(browser: Browser):
    page = browser.get("/dead-letters/0123456789")

    assert page.status == 404
    assert "There is no dead letter 0123456789" in page.words


def test_a_replay_that_cannot_be_made_says_why(operator: Operator, browser: Browser):
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters
    browser.get(f"/dead-letters/{letter.id}")

    page = browser.post(f"/dead-letters/{letter.id}", do="replay", reason="x", to="payment.nobody")

    assert page.status == 400
    assert "payment.nobody" in page.words
    assert len(list(operator.app.dead_letters)) == 1


def test_markup_in_a_letter_is_text(operator: Operator, browser: Browser):
    operator.placed(MARKUP)
    (letter,) = operator.app.dead_letters

    for path in ("/dead-letters", group_of(browser), f"/dead-letters/{letter.id}", "/dead-letters/list"):
        page = browser.get(path)
        assert page.status == 200
        assert "<script>alert" not in page.text


def test_a_message_without_a_readable_event_is_shown(operator: Operator, browser: Browser):
    body = b"<b>\xff not json</b>"
    letter = DeadLetter("payment", "payment.charge", "unreadable", "it is no JSON", Message("", "", body))
    operator.app.runtime.store.add_letter("payment.charge", letter.id, letter.to_json())

    page = browser.get(f"/dead-letters/{letter.id}")

    assert "The message <b>\\xff not json</b>" in page.words


def test_pages_that_only_read_show_commands_and_refuse(operator: Operator):
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters
    reader = Browser(Site(operator.app))
    link = group_of(reader)

    assert "choreo dead-letters replay" in reader.get(link).words
    assert f"choreo dead-letters discard {letter.id}" in reader.get(f"/dead-letters/{letter.id}").words
    assert reader.post(link, do="discard", reason="x").status == 403
    assert reader.post(f"/dead-letters/{letter.id}", do="discard", reason="x").status == 403
    assert reader.post("/dead-letters/jobs/01234567", do="stop").status == 403
    assert len(list(operator.app.dead_letters)) == 1
