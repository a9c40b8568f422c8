"""The page Dead letters in a real browser: a group is replayed, watched, stopped and discarded."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.browser.shop import Shop
from tests.browser.window import PATIENCE, Window
from tests.waiting import eventually

expect.set_options(timeout=PATIENCE)
Look = Callable[..., Window]


def fail(shop: Shop, subject: str, number: int) -> None:
    """Place orders whose payment becomes a dead letter."""
    with shop.fault("provider-away"):
        for one in range(number):
            shop.place(f"{subject}-{one}")
        eventually(lambda: len(shop.letters(subject)) == number, reason=f"{number} dead letters")
    # A fault of the kitchen that follows is not for these.
    eventually(lambda: shop.effects("kitchen", subject) == number, reason="the kitchen has answered")


@pytest.fixture(autouse=True)
def _no_letters(shop: Shop) -> None:
    """Each test finds its own letters only."""
    for letter in shop.app.dead_letters:
        shop.app.dead_letters.discard(letter.id)


def open_group(page: Page) -> None:
    page.get_by_role("link", name=re.compile("ConnectionError payment")).click()


def replay(page: Page, *, canary: bool, rate: str = "no limit") -> None:
    """Fill in the form of a group, and send it."""
    form = page.locator("form#replay")
    form.get_by_label("Reason").fill("the provider is back")
    form.get_by_label("At most").select_option(label=rate)
    form.get_by_label("One first").set_checked(canary)
    form.get_by_role("button", name=re.compile("Replay")).click()


def test_a_group_is_replayed(shop: Shop, site: str, look: Look, subject: str) -> None:
    fail(shop, subject, 12)
    page = look(site).open("/dead-letters")
    expect(page.locator("table tbody tr")).to_have_count(1)
    expect(page.locator("table tbody tr")).to_contain_text("12")

    open_group(page)
    replay(page, canary=False)

    expect(page.locator(".job").first).to_contain_text("12 of 12")
    shop.delivered(subject, 12)
    assert shop.letters(subject) == []
    (repair, *_) = shop.app.repairs.recent()
    assert (repair.action, repair.count, repair.reason) == ("replayed", 12, "the provider is back")


def test_one_letter_is_replayed_first_and_the_others_when_a_person_says_so(
    shop: Shop, site: str, look: Look, subject: str
) -> None:
    fail(shop, subject, 5)
    page = look(site).open("/dead-letters")
    open_group(page)

    replay(page, canary=True)

    job = page.locator(".job").first
    expect(job).to_contain_text("The first one")
    expect(job).to_contain_text("done in")
    assert len(shop.letters(subject)) == 4
    assert shop.effects("payment", subject) == 1
    # Somebody else sees the same, and may answer.
    other = look(site).open("/dead-letters")
    other.get_by_role("button", name="Go on with 4").click()
    shop.delivered(subject, 5)
    expect(job).to_contain_text("5 of 5")


def test_a_first_letter_that_fails_again_is_told_and_the_others_stay(
    shop: Shop, site: str, look: Look, subject: str
) -> None:
    fail(shop, subject, 3)
    page = look(site).open("/dead-letters")
    open_group(page)

    with shop.fault("provider-away"):
        replay(page, canary=True)
        expect(page.locator(".job").first).to_contain_text("failed again")
    page.locator(".job").first.get_by_role("button", name="Stop").click()

    expect(page.locator(".job").first).to_contain_text("Stopped")
    assert len(shop.letters(subject)) == 3
    assert shop.effects("payment", subject) == 0


def test_a_replay_belongs_to_the_server_and_is_stopped_by_anybody(
    shop: Shop, site: str, look: Look, subject: str
) -> None:
    fail(shop, subject, 30)
    page = look(site).open("/dead-letters")
    open_group(page)
    replay(page, canary=False, rate="1 a second")
    expect(page.locator(".job progress").first).to_be_visible()
    eventually(lambda: shop.effects("payment", subject) >= 2)

    page.reload()
    job = page.locator(".job").first
    expect(job).to_contain_text("Running")
    expect(job).to_contain_text(re.compile(r"\b([2-9]|1\d) of 30"))
    look(site).open("/dead-letters").locator(".job").first.get_by_role("button", name="Stop").click()

    expect(job).to_contain_text("Stopped")
    left = len(shop.letters(subject))
    assert 0 < left < 30
    eventually(lambda: shop.effects("payment", subject) == 30 - left)


def test_a_group_is_discarded_with_a_reason(shop: Shop, site: str, look: Look, subject: str) -> None:
    fail(shop, subject, 3)
    page = look(site).open("/dead-letters")
    open_group(page)

    page.locator("summary", has_text="Discard them").click()
    page.locator("details[open]").get_by_label("Reason").fill("these were a test")
    page.locator("details[open]").get_by_role("button", name="Discard them").click()

    eventually(lambda: shop.letters(subject) == [])
    expect(page.locator("h1")).to_have_text("No dead letter is left in this group")


def test_letters_are_filtered(shop: Shop, site: str, look: Look, subject: str) -> None:
    fail(shop, subject, 2)
    with shop.fault("no-menu"):
        shop.place(f"{subject}-menu")
        eventually(lambda: len(shop.letters(subject)) == 3)
    page = look(site).open("/dead-letters")
    expect(page.locator("table tbody tr")).to_have_count(2)

    page.get_by_label("Type of error").fill("KeyError")
    page.keyboard.press("Enter")

    expect(page.locator("table tbody tr")).to_have_count(1)
    # Markup in an error is a text.
    expect(page.locator("table tbody tr")).to_contain_text("kitchen.answer_order")
    page.get_by_label("Type of error").fill("")
    page.get_by_label("Subject").fill(f"{subject}-1")
    page.keyboard.press("Enter")
    expect(page.locator("table tbody tr")).to_have_count(1)
    page.get_by_role("link", name="One by one").click()
    expect(page.locator("#letters tbody tr")).to_have_count(1)


def test_pages_that_only_read_show_commands_and_refuse(
    shop: Shop, site: str, read_only: str, look: Look, subject: str
) -> None:
    fail(shop, subject, 1)
    (letter,) = shop.letters(subject)
    page = look(read_only).open("/dead-letters")

    open_group(page)

    expect(page.locator("pre.command").first).to_contain_text("choreo dead-letters replay")
    assert page.locator("form[method=post]").count() == 0
    # The form of a page that may, sent to the one that may not.
    answer = page.evaluate(
        """path => fetch(path, {method: "POST", body: new URLSearchParams({do: "replay", reason: "x"})})
            .then(answer => answer.status)""",
        f"/dead-letters/{letter.id}",
    )
    assert answer == 403
    assert len(shop.letters(subject)) == 1


def test_a_form_of_a_foreign_site_is_refused(shop: Shop, site: str, look: Look, subject: str) -> None:
    fail(shop, subject, 1)
    (letter,) = shop.letters(subject)
    window = look(site)
    window.open("/dead-letters")  # the victim has the cookie
    evil = f"""<form method=post action="{site}/dead-letters/{letter.id}">
        <input name=do value=discard><input name=reason value=x><input name=_xsrf value=guessed></form>"""
    # Another name of the same machine is another site.
    port = site.rpartition(":")[2]
    window.page.route(f"http://localhost:{port}/evil", lambda route: route.fulfill(body=evil, content_type="text/html"))

    window.page.goto(f"http://localhost:{port}/evil")
    window.page.evaluate("document.forms[0].submit()")

    expect(window.page.locator("h1")).to_have_text("Not allowed")
    assert len(shop.letters(subject)) == 1
    # That page is of the test.
    window.requests[:] = [one for one in window.requests if "/evil" not in one]


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.nip.io"])
def test_a_foreign_name_of_the_server_is_refused(site: str, host: str) -> None:
    form = urlencode({"do": "discard", "reason": "x"}).encode()
    for data in (None, form):
        request = urllib.request.Request(f"{site}/dead-letters", data=data, headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
