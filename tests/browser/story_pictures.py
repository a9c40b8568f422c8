"""
Draws the pictures of a story and of dead letters: `python -m tests.browser.story_pictures`.

The pages are photographed in a real browser, on the reference platform with real workers, after a few orders and an
outage of the SMS gateway. Beside the pictures, `digests.json` says of what each was made; a test compares that, and
fails when a picture is out of date.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from choreo.local import Platform
from handlers import notification, order
from tests.browser.chromium import chromium
from tests.browser.window import window

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
DIGESTS = PICTURES / "digests.json"
WEB = ROOT / "choreo" / "web"
#: What every page is made of.
LAYOUT = ("templates/layout.html", "static/choreo.css")
#: Picture of a page → the templates that it is made of, beside the layout; and its height in pixels.
PAGES = {
    "story.png": (("story.html", "story_row.html", "axis.html", "steps.html"), 900),
    "dead-letters.png": (("letter_group.html", "jobs.html"), 560),
}
#: The largest picture, in bytes.
LARGEST = 200_000
#: The orders during the outage, and before it.
FAILED, FINE = 6, 9


def sources() -> dict[str, str]:
    """Picture → the digest of what it is made of."""
    found = {}
    for picture, (templates, _) in PAGES.items():
        files = [*LAYOUT, *(f"templates/{name}" for name in templates)]
        found[picture] = _digest(*((WEB / name).read_bytes() for name in files), Path(__file__).read_bytes())
    return found


def _digest(*texts: bytes) -> str:
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def main() -> None:
    """Draw all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with _platform() as (url, subject):
        _photograph(url, subject)
    DIGESTS.write_text(json.dumps(sources(), indent=2) + "\n")
    for picture in PAGES:
        print(f"{picture}  {(PICTURES / picture).stat().st_size:,} bytes")


@contextmanager
def _platform() -> Iterator[tuple[str, str]]:
    """The address of the pages of a running platform, and an order that got no text message."""
    with tempfile.TemporaryDirectory(prefix="choreo-pictures-") as folder:
        os.environ["CHOREO_DATA"] = folder
        with Platform("handlers", worker_options=("--concurrency", "1")) as platform:
            platform.start()
            platform.wait_ready()
            url = platform.start_pages()
            yield url, _orders()


def _orders() -> str:
    """Place orders, the last ones while no text message can be sent. Returns one of these, once they all failed."""
    for number in range(FINE):
        order.place_order("alice", "night-owl" if number == 4 else "pizza-palace", ["margherita"], 1450 + number)
        time.sleep(0.4)
    notification.gateway_outage().touch()
    # The provider of the payments answers carol at the third attempt.
    customers = ["carol", *["dave"] * (FAILED - 1)]
    failed = [order.place_order(customer, "pizza-palace", ["calzone"], 1650) for customer in customers]
    deadline = time.monotonic() + 60
    while notification.app.dead_letters.count("notification.text_arrival") < FAILED:
        if time.monotonic() > deadline:
            sys.exit("The orders have not failed within a minute.")
        time.sleep(0.2)
    return failed[0]


def _photograph(url: str, subject: str) -> None:
    with chromium() as browser, window(browser, url) as shown:
        _shot(shown.open(f"/stories?q={subject}"), "story.png")
        page = shown.open("/dead-letters")
        page.locator("table tbody tr a").first.click()
        notification.gateway_outage().unlink()
        page.get_by_label("Reason").first.fill("the gateway is back")
        page.get_by_role("button", name="Replay").first.click()
        page.get_by_role("button", name="Go on").wait_for()
        _shot(page, "dead-letters.png")


def _shot(page: Page, picture: str) -> None:
    page.set_viewport_size({"width": 1280, "height": PAGES[picture][1]})
    page.wait_for_timeout(300)  # milliseconds, for the fonts
    page.screenshot(path=PICTURES / picture)


if __name__ == "__main__":
    main()
