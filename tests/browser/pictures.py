"""
Draws the pictures of the pages in docs/web.md: `python -m tests.browser.pictures`.

The platform is the reference application on a stage, with an hour of orders and a clock of its own, so the pages say
the same each time. What they say is kept beside the pictures, and tests/unit/test_pictures.py compares it.
"""

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from choreo.testing import stage
from choreo.web.server import application
from choreo.web.site import Site
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.events import OrderPlaced

HERE = Path(__file__).parents[2] / "docs" / "pictures"
WORDS = HERE / "words.json"
SERVICES: tuple[ModuleType, ...] = (analytics, driver, loyalty, notification, order, payment, restaurant)
#: The name of each picture: its page, its width and height in pixels, and if it is dark.
PICTURES = {
    "flow": ("/flow", 1280, 920, False),
    "map": ("/map", 1280, 700, False),
    "flow-phone": ("/flow", 400, 760, True),
}
CUSTOMERS = ("alice", "bob", "erin", "carol", "dora", "olga", "frank", "grace", "heidi")
#: Half minutes with orders, and those at the end in which no worker takes an event.
STEPS, LULL = 110, 6


@contextmanager
def shop() -> Iterator[Site]:
    """The pages of a platform that has had orders for an hour, and has some left to do."""
    with tempfile.TemporaryDirectory() as data:
        before = os.environ.get("CHOREO_DATA")
        os.environ["CHOREO_DATA"] = data
        try:
            yield from _played()
        finally:
            os.environ.pop("CHOREO_DATA")
            if before is not None:
                os.environ["CHOREO_DATA"] = before


def _played() -> Iterator[Site]:
    platform = stage(*(service.app for service in SERVICES), start=datetime(2026, 3, 2, 11, 0, tzinfo=UTC))
    with platform:
        site = Site(payment.app)
        for step in range(STEPS):
            for place in range((step * step) % 5):
                platform.publish(_order(step, place), f"ORD-{10 * step + place}", source="order")
            if step < STEPS - LULL:
                platform.run()
            site.watch.look()
            if step < STEPS - LULL:
                platform.advance(seconds=30)
            else:
                platform._clock.seconds += 30
        reason = "the SMS gateway is down"
        payment.app.pauses.pause("notification.text_arrival", timedelta(minutes=30), reason=reason, who="alice@ops")
        site.watch.look()
        yield site
        site.close()


def _order(step: int, place: int) -> OrderPlaced:
    # Victor's account is frozen, so that his order becomes a dead letter.
    customer = "victor" if (step, place) == (STEPS - LULL - 1, 0) else CUSTOMERS[(step + place) % len(CUSTOMERS)]
    where = "night-owl" if (step + place) % 9 == 0 else "pizza-place"
    return OrderPlaced(customer_id=customer, restaurant_id=where, items=["soup"], total_cents=1200)


def draw() -> None:
    """Draw all pictures, and note what their pages say."""
    from tests.browser.chromium import chromium
    from tests.unit.browser import Browser

    HERE.mkdir(exist_ok=True)
    with shop() as site:
        said = {page: Browser(site).get(page).main for page in dict.fromkeys(page for page, *_ in PICTURES.values())}
        WORDS.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        with served(site) as url, chromium() as browser:
            for name, (page, width, height, is_dark) in PICTURES.items():
                scheme = "dark" if is_dark else "light"
                window = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1.5
                )
                opened = window.new_page()
                opened.goto(url + page)
                opened.screenshot(path=HERE / f"{name}.png")
                window.close()


@contextmanager
def served(site: Site) -> Iterator[str]:
    """Serve the pages from a thread. Yields their address."""
    sockets, loop = bind_sockets(0, "127.0.0.1"), asyncio.new_event_loop()

    async def begin() -> None:
        HTTPServer(application(site)).add_sockets(sockets)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(begin())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


if __name__ == "__main__":
    draw()
