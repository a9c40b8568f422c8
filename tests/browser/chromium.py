"""The browser of the tests: an installed Chromium, and what it may do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

#: Environment variable: the path of the browser. It comes before those on PATH.
VARIABLE = "CHOREO_TEST_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Milliseconds to wait for the browser to start.
_START = 120_000
#: No window, no graphics card, and none of the addresses that a browser asks by itself.
_FLAGS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def installed() -> str | None:
    """The path of the browser; None if there is none."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get(VARIABLE), *NAMES)))), None)


def require_browser() -> str:
    """The path of the browser. Skips the test where there is none, and fails it in CI."""
    path = installed()
    if path is None:
        message = (
            f"no browser: none of {', '.join(NAMES)} is on PATH. Install one, for example with `apt-get install "
            f"chromium`, or set {VARIABLE} to the path of one."
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    # Its sandbox refuses to run as root.
    flags = [*_FLAGS, *["--no-sandbox"] * (os.geteuid() == 0)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require_browser(), headless=True, args=flags, timeout=_START
        )
        try:
            yield browser
        finally:
            browser.close()
