"""The pages Stories and Joins in a real browser: an order is found, and its story is told."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.shop import Shop
from tests.browser.window import PATIENCE, Window
from tests.waiting import eventually

expect.set_options(timeout=PATIENCE)
Look = Callable[..., Window]
MARKUP = "<b onmouseover=alert(1)>ORD</b>"


def brightness(page: Page, what: str) -> int:
    """Of a colour of the page, from 0 to 765."""
    colour = page.evaluate(f"getComputedStyle(document.body).{what}")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))


def search(page: Page, what: str) -> None:
    """As a person does it: with the keyboard."""
    page.get_by_label("Order, or the id of").fill(what)
    page.keyboard.press("Enter")


def test_an_order_is_found_and_its_story_is_told(shop: Shop, site: str, look: Look, subject: str) -> None:
    shop.place(subject)
    shop.delivered(subject)

    page = look(site).open("/stories")
    search(page, subject)

    expect(page.get_by_role("heading", name=subject, exact=True)).to_be_visible()
    expect(page.locator("#state")).to_have_text("done")
    rows = page.locator("table.waterfall tbody tr")
    expect(rows.filter(has_text="driver.assign_driver").last).to_be_visible()
    assert rows.locator("rect.ran.done").count() >= 3
    box = rows.locator("rect.ran.done").first.bounding_box()
    assert box is not None
    assert box["width"] >= 1


def test_a_story_goes_on_while_it_is_looked_at(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("no-menu"):
        shop.place(subject)
        (letter,) = eventually(lambda: shop.letters(subject))
    page = look(site).open(f"/stories?q={subject}")
    expect(page.locator("#state")).to_have_text("stuck")
    expect(page.locator("#cause")).to_contain_text("kitchen.answer_order failed for good: KeyError")

    shop.app.dead_letters.replay(letter.id)
    shop.delivered(subject)

    # Nobody reloads it.
    expect(page.locator("#state")).to_have_text("done")


def test_a_join_is_fired_from_its_story_with_a_reason(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("provider-away"):
        shop.place(subject)
        eventually(lambda: shop.letters(subject))
        eventually(lambda: shop.app.joins.find(subject))
    page = look(site).open(f"/stories?q={subject}")

    page.get_by_role("link", name="Open the join").click()
    page.locator("summary", has_text="Fire it now").click()
    page.locator("details[open]").get_by_label("Reason").fill("the customer has paid in cash")
    page.keyboard.press("Enter")

    expect(page.get_by_role("status")).to_contain_text("it runs with the events that have arrived")
    eventually(lambda: shop.effects("driver", subject) == 1)
    (repair, *_) = shop.app.repairs.recent()
    assert (repair.action, repair.reason) == ("fired", "the customer has paid in cash")


@pytest.mark.parametrize("path", ["/stories", "/joins", "/dead-letters", "/stories?q={}", "/joins?q={}"])
@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_page_is_not_scrolled_sideways(shop: Shop, site: str, look: Look, path: str, dark: bool) -> None:
    long = "ORD-" + "M" * 56
    if not shop.app.joins.find(long):
        with shop.fault("forgetful"):
            shop.place(long, note="W" * 300)
            shop.place(MARKUP)
            eventually(lambda: shop.app.joins.find(long) and shop.app.joins.find(MARKUP))

    window = look(site, width=400, dark=dark)
    window.open(path.format(long))

    assert window.fits()
    ink, paper = window.page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == dark


def test_foreign_markup_is_text(shop: Shop, site: str, look: Look) -> None:
    with shop.fault("forgetful"):
        shop.place(MARKUP, note="<img src=http://127.0.0.1:1/x.png>")
        eventually(lambda: shop.app.joins.find(MARKUP))
    window = look(site)

    page = window.open("/stories")
    search(page, MARKUP)

    expect(page.get_by_role("heading", name=MARKUP, exact=True)).to_be_visible()
    assert page.locator("b[onmouseover]").count() == 0


def test_all_is_reached_by_the_keyboard(shop: Shop, site: str, look: Look, subject: str) -> None:
    with shop.fault("provider-away"):
        shop.place(subject)
        eventually(lambda: shop.letters(subject))
    page = look(site).open(f"/stories?q={subject}")

    focus = "[document.activeElement.tagName, document.activeElement.textContent.trim()].join(' ')"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focus))
        if seen[-1] == "A Open the letter":
            break

    assert seen[0] == "A Skip to the content"
    assert "A Stories" in seen
    assert seen[-1] == "A Open the letter"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text(subject)
