"""A window of the browser: one person who looks at one server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

#: Milliseconds. A deadline costs nothing when the test passes.
PATIENCE = 60_000


class Window:
    """
    One window with its own cookies. It records each address that its page asks for, and each error of its scripts.

    ``page`` is Playwright's page.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url.rstrip("/")
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.set_default_navigation_timeout(PATIENCE)
        page.context.on("request", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)

    def open(self, path: str = "/") -> Page:
        """Go to a page of the server."""
        self.page.goto(self.url + path)
        return self.page

    def check(self) -> None:
        """Fail if a page asked for an address of another server, or if a script of it failed."""
        own = urlsplit(self.url).netloc
        outside = [one for one in self.requests if not _is_at(one, own)]
        assert outside == [], f"the page asked for addresses outside of {own}: {outside}"
        assert self.errors == [], f"scripts of the page failed: {self.errors}"

    def fits(self) -> bool:
        """True if nothing has to be scrolled from left to right."""
        root = "document.documentElement"
        return bool(self.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"))

    def _note(self, request: Request) -> None:
        self.requests.append(request.url)

    def _hear(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.errors.append(message.text)


@contextmanager
def window(browser: Browser, url: str, *, width: int = 1280, dark: bool = False, **options: Any) -> Iterator[Window]:
    """A window of this width in pixels. When it closes, it is checked: see `Window.check`."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    try:
        opened = Window(context.new_page(), url)
        yield opened
        opened.check()
    finally:
        context.close()


def _is_at(url: str, place: str) -> bool:
    """True for an address of this server, and for data that is in the page itself."""
    parts = urlsplit(url)
    return parts.scheme == "data" or (parts.scheme == "http" and parts.netloc == place)
