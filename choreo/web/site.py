"""What all pages of one server share."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

from choreo.errors import StoreError
from choreo.masking import shown_url
from choreo.service import Service
from choreo.web.access import Access
from choreo.web.jobs import Jobs
from choreo.web.watch import Watch

HERE = Path(__file__).parent
STATIC, TEMPLATES = HERE / "static", HERE / "templates"
#: Questions to store and broker that run at once. More of them wait.
THREADS = 8
#: Seconds after which a page stops waiting for store and broker.
PATIENCE = 20.0
#: The most messages that wait to be shown after a change.
MOST_NEWS = 100

T = TypeVar("T")


class Site:
    """
    The pages of one platform on one server.

    ``app`` is any service with the platform's configuration. ``base`` is the path under which the pages are: "", or
    "/choreo". ``allows_changes`` is False if the pages only read.
    """

    def __init__(self, app: Service, *, base: str = "", access: Access | None = None, allows_changes: bool = False):
        self.app, self.base = app, base
        self.access = access or Access()
        self.allows_changes = allows_changes
        self.watch = Watch(app)
        self.jobs = Jobs()
        self._threads = ThreadPoolExecutor(THREADS, "choreo-web")
        self._news: dict[str, str] = {}

    async def ask(self, question: Callable[[], T]) -> T:
        """
        Call this in a thread, and return its answer: the other pages stay quick meanwhile.

        Raises what it raises, and `StoreError` if there is no answer after `PATIENCE` seconds.
        """
        asked = asyncio.get_running_loop().run_in_executor(self._threads, question)
        try:
            return await asyncio.wait_for(asked, PATIENCE)
        except TimeoutError as error:
            raise StoreError(f"There was no answer within {PATIENCE:.0f} s.") from error

    def link(self, *path: str, **query: str | int | None) -> str:
        """The address of a page: its path, each part quoted, and the query without what is None or empty."""
        told = urlencode({name: value for name, value in query.items() if value not in (None, "")})
        return f"{self.base}/{'/'.join(quote(part, safe='') for part in path)}{'?' if told else ''}{told}"

    def static(self, name: str) -> str:
        """The address of a static file. It changes with the file."""
        return f"{self.base}/static/{name}?v={_digest(name)}"

    @property
    def place(self) -> str:
        """The URL of the store, without passwords; that of the broker if it is the store."""
        from choreo.broker.connections import joined

        conf = self.app.conf
        return shown_url(conf.get("choreo_store_url") or joined(conf.broker_write_url) or "")

    @property
    def namespace(self) -> str:
        """The namespace; "" for none."""
        return self.app.conf.get("choreo_namespace") or ""

    def leave_news(self, text: str) -> str:
        """Keep a message for the page that follows a change. Returns its key."""
        key = secrets.token_urlsafe(9)
        self._news[key] = text
        while len(self._news) > MOST_NEWS:
            del self._news[next(iter(self._news))]
        return key

    def news(self, key: str) -> str:
        """The message with this key; "" if there is none."""
        return self._news.get(key, "")

    def close(self) -> None:
        """Stop the jobs, end the watch, and let no further question begin."""
        self.jobs.close()
        self.watch.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
