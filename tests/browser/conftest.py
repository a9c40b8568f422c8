"""Pages in a real browser. One browser serves all tests of this directory; each test has windows of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import chromium, require_browser
from tests.browser.shop import Shop, pages
from tests.browser.shop import shop as running_shop
from tests.browser.window import Window, window


# Not of the session: while it is open, its loop runs in this thread, and no test could run another one.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    require_browser()
    with running_shop(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="package")
def site(shop: Shop) -> Iterator[str]:
    """The address of pages that change something."""
    with pages(shop, "--allow-changes") as url:
        yield url


@pytest.fixture(scope="package")
def read_only(shop: Shop) -> Iterator[str]:
    """The address of pages that only read."""
    with pages(shop) as url:
        yield url


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Window]]:
    """Opens a window: ``look(site, width=400, dark=True)``."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(window(browser, url, **options))


@pytest.fixture
def subject() -> str:
    """What the events of one test are about."""
    return f"ORD-{uuid4().hex[:6]}"
