"""The guard of the browser tests itself: an address outside of the server fails a test."""

import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.browser.window import window

PAGES = {
    "/quiet": "<h1>quiet</h1>",
    # Nobody listens there, and no packet leaves the machine.
    "/loud": "<h1>loud</h1><img src='http://127.0.0.1:1/pixel.png'>",
    "/broken": "<h1>broken</h1><script>throw Error('oh no')</script>",
    "/wide": "<div style='width: 3000px'>wide</div>",
}


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in PAGES else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGES.get(self.path, "").encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_page_that_stays_at_home_is_fine(browser: Browser, site: str) -> None:
    with window(browser, site) as shown:
        assert shown.open("/quiet").inner_text("h1") == "quiet"
        assert shown.fits()


def test_an_address_outside_fails_the_test(browser: Browser, site: str) -> None:
    with pytest.raises(AssertionError, match=r"127\.0\.0\.1:1/pixel"), window(browser, site) as shown:
        shown.open("/loud")


def test_a_script_that_fails_fails_the_test(browser: Browser, site: str) -> None:
    with pytest.raises(AssertionError, match="oh no"), window(browser, site) as shown:
        shown.open("/broken")


def test_a_page_wider_than_the_window_does_not_fit(browser: Browser, site: str) -> None:
    with window(browser, site, width=400) as shown:
        shown.open("/wide")
        assert not shown.fits()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_browser_the_tests_skip_and_in_ci_they_fail(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(chromium.VARIABLE, raising=False)

    with pytest.raises(outcome, match="no browser: none of chromium, "):
        chromium.require_browser()
