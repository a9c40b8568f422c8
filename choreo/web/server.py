"""The server of `choreo web`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, StaticFileHandler

from choreo.web.access import HEADERS
from choreo.web.page import Home, NotFound, Page
from choreo.web.pages import OTHERS, TABS
from choreo.web.site import STATIC, Site

#: The most bytes of a request: forms are small.
MOST_BYTES = 1_000_000
#: Seconds for which a connection may be idle, or send a request: one that never does would keep its place.
MOST_IDLE, MOST_SENDING = 75.0, 20.0


class Static(StaticFileHandler):
    """The style and the script of the pages."""

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - Tornado's
        """Set the headers of every answer."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")


def routes(site: Site, dressed: Callable[[type[Page]], type[Page]] = lambda page: page) -> list[tuple[Any, ...]]:
    """The routes of all pages. ``dressed`` is a callback: it returns the page as the server shows it."""
    base = site.base
    pages = [(path, page) for page in (*TABS, *OTHERS) for path in page.paths]
    return [
        *[(f"{base}{path}", dressed(page), {"site": site}) for path, page in pages],
        (f"{base}/static/(.*)", Static, {"path": str(STATIC)}),
        (f"{base}/?", dressed(Home), {"site": site}),
    ]


def application(site: Site) -> Application:
    """The application of Tornado with all pages."""
    return Application(
        routes(site),
        default_handler_class=NotFound,
        default_handler_args={"site": site},
        xsrf_cookies=True,
        xsrf_cookie_name="choreo_xsrf",
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Strict"},
        log_function=lambda _: None,
    )


async def serve(site: Site, host: str, port: int, started: Callable[[int], Awaitable[None] | None]) -> None:
    """Serve the pages until the task is cancelled. ``started`` gets the port. Raises `OSError` if it is taken."""
    sockets = bind_sockets(port, host)
    server = HTTPServer(
        application(site),
        max_body_size=MOST_BYTES,
        max_buffer_size=MOST_BYTES,
        idle_connection_timeout=MOST_IDLE,
        body_timeout=MOST_SENDING,
    )
    server.add_sockets(sockets)
    site.watch.start()
    try:
        started(sockets[0].getsockname()[1])
        await asyncio.Event().wait()
    finally:
        server.stop()
        site.close()
