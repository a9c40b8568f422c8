"""
Faults that an operator was tried with, each repaired by the pages in a few clicks. See tests/acceptance/faults.

Every order is right at the end, and nothing happened twice: counted in the services' own databases.
"""

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.shop import Shop
from tests.browser.window import PATIENCE, Window
from tests.waiting import eventually

expect.set_options(timeout=PATIENCE)
Look = Callable[..., Window]


def search(page: Page, subject: str) -> None:
    page.get_by_label("Order, or the id of").fill(subject)
    page.keyboard.press("Enter")


def confirm(page: Page, button: str, reason: str) -> None:
    """Open a change, say why, and make it."""
    page.locator("summary", has_text=re.compile(f"^{button}$")).first.click()
    form = page.locator("details[open] form").first
    form.get_by_label("Reason").fill(reason)
    form.get_by_role("button", name=button).click()


def test_b_a_handler_raised_for_one_order(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("no-menu"):
        shop.place(subject)
        eventually(lambda: shop.letters(subject))
    page = look(site).open("/stories")
    search(page, subject)
    expect(page.locator("#cause")).to_contain_text("kitchen.answer_order failed for good")

    page.get_by_role("link", name="Open the letter").click()
    page.get_by_label("Reason").first.fill("the menu is found")
    page.get_by_role("button", name="Replay it").first.click()

    expect(page.locator("#state")).to_have_text("done")
    shop.delivered(subject)
    assert shop.letters(subject) == []


def test_c_a_handler_has_announced_nothing(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("forgetful"):
        shop.place(subject)
        eventually(lambda: shop.app.joins.find(subject))
    page = look(site).open("/stories")
    search(page, subject)
    expect(page.locator("#cause")).to_contain_text("payment.charge_customer handled order.placed")

    row = page.locator("table.waterfall tr", has_text="payment.charge_customer").first
    row.get_by_role("link", name="run again").click()
    page.get_by_label("Reason").fill("a version that does not forget is deployed")
    page.get_by_role("button", name="Run it again").click()

    expect(page.locator("#state")).to_have_text("done")
    shop.delivered(subject)


def test_c_a_join_waits_for_the_event_of_a_dead_letter(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("provider-away"):
        shop.place(subject)
        eventually(lambda: shop.letters(subject) and shop.app.joins.find(subject))
    page = look(site).open(f"/joins?q={subject}")
    page.get_by_role("link", name=subject, exact=True).click()
    page.get_by_role("link", name="why not?").click()
    why = page.locator(".note.warn")
    expect(why).to_contain_text("payment.charge_customer failed for good: ConnectionError")

    page.get_by_role("link", name="Open the letter").click()
    page.get_by_label("Reason").first.fill("the provider is back")
    page.get_by_role("button", name="Replay it").first.click()

    expect(page.locator("#state")).to_have_text("done")
    shop.delivered(subject)
    assert shop.app.joins.find(subject) == []


def test_h_many_dead_letters_of_one_cause(shop: Shop, site: str, look: Look, subject: str) -> None:
    orders = 100
    with shop.fault("provider-away"):
        for number in range(orders):
            shop.place(f"{subject}-{number}")
        eventually(lambda: len(shop.letters(subject)) == orders, reason="100 dead letters")
    page = look(site).open("/dead-letters")

    page.get_by_role("link", name=re.compile("ConnectionError payment:")).click()
    page.locator("form#replay").get_by_label("Reason").fill("the provider is back")
    page.locator("form#replay").get_by_label("At most").select_option(label="no limit")
    page.locator("form#replay").get_by_role("button").click()
    page.get_by_role("button", name=re.compile("Go on with")).click()

    shop.delivered(subject, orders)
    assert shop.letters(subject) == []
    expect(page.locator(".job").first).to_contain_text(re.compile("Done"))


def test_j_a_retry_in_twenty_minutes(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("night"):
        shop.place(subject)
        eventually(lambda: [entry for entry in shop.app.schedule.find(subject) if entry.kind == "retry"])
    page = look(site).open("/stories")
    search(page, subject)
    expect(page.locator("#cause")).to_contain_text("is due in 20 min")

    confirm(page, "Now", "the provider is open again")

    expect(page.locator("#state")).to_have_text("done")
    shop.delivered(subject)


def test_p_an_outage_is_waited_for(shop: Shop, site: str, look: Look, subject: str) -> None:
    page = look(site).open("/flow/payment.charge_customer")
    page.get_by_label("Reason").first.fill("the provider is away")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#handler")).to_contain_text("paused")
    # The workers look at the pauses every second.
    eventually(lambda: shop.is_paused("payment"), reason="the worker follows the pause")
    with shop.fault("provider-away"):
        for number in range(10):
            shop.place(f"{subject}-{number}")
        eventually(lambda: shop.effects("kitchen", subject) == 10)
    assert shop.letters(subject) == []
    assert shop.effects("payment", subject) == 0

    page.reload()
    page.get_by_label("Reason").first.fill("the provider is back")
    page.get_by_role("button", name="Resume").click()

    shop.delivered(subject, 10)
    assert shop.letters(subject) == []
