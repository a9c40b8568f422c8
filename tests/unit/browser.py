"""A browser without script and without a socket, for the pages of `choreo.web`."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest, RequestStartLine, ResponseStartLine
from tornado.web import Application

from choreo.web.server import application
from choreo.web.site import Site

HOST = "127.0.0.1:5556"


@dataclass
class Answer:
    """What the server answered."""

    status: int = 0
    headers: HTTPHeaders = field(default_factory=HTTPHeaders)
    body: bytes = b""

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()

    @property
    def words(self) -> str:
        """What a reader sees of a page: its text, with single spaces."""
        return _words(self.text)

    @property
    def main(self) -> str:
        """The same of its content, without what is around it on every page."""
        return _words(self.text.partition("<main")[2].partition("</main>")[0].partition(">")[2])

    @property
    def links(self) -> list[str]:
        """The addresses of its links."""
        return [unescape(link) for link in re.findall(r'<a [^>]*?href="([^"]*)"', self.text)]


class Browser:
    """Asks the pages of a site, keeps cookies, and sends forms with the token of the page before."""

    def __init__(self, site: Site, served: Application | None = None) -> None:
        self.site = site
        self._served = served or application(site)
        self._cookies: dict[str, str] = {}
        self._token = ""

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: str) -> Answer:
        """The page at this path."""
        return self.send("GET", path + (f"?{urlencode(query)}" if query else ""), headers or {})

    def post(self, path: str, form: Mapping[str, Any] | None = None, /, **fields: Any) -> Answer:
        """Send a form to this path, as the page that was asked for last would send it."""
        return self.forge(path, {}, {**(form or {}), **fields})

    def forge(self, path: str, headers: Mapping[str, str], form: Mapping[str, Any]) -> Answer:
        """Send a form with the token of the page that was asked for last, and with these headers."""
        body = urlencode({"_xsrf": self._token, **form}, doseq=True)
        return self.send("POST", path, {"Origin": f"http://{HOST}"} | dict(headers), body)

    def follow(self, answer: Answer) -> Answer:
        """The page to which this answer leads."""
        assert answer.status in (302, 303), answer.text
        return self.get(answer.headers["Location"])

    def send(self, method: str, path: str, headers: Mapping[str, str], body: str = "") -> Answer:
        """Send any request."""
        answer = asyncio.run(self._send(method, path, headers, body.encode()))
        for cookie in answer.headers.get_list("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        if token := re.search(r'name="_xsrf" value="([^"]*)"', answer.text if answer.status == 200 else ""):
            self._token = token[1]
        return answer

    async def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        told = HTTPHeaders({"Host": HOST, "Content-Type": "application/x-www-form-urlencoded"} | dict(headers))
        told["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        connection = Connection()
        request = HTTPServerRequest(
            headers=told, body=body, connection=connection, start_line=RequestStartLine(method, path, "HTTP/1.1")
        )
        delegate = self._served.find_handler(request)
        delegate.data_received(body)
        delegate.finish()
        await asyncio.wait_for(connection.finished.wait(), 30)
        return connection.answer


class Connection(HTTPConnection):
    """Keeps what is written to it."""

    context = SimpleNamespace(remote_ip="127.0.0.1", protocol="http")

    def __init__(self) -> None:
        self.answer = Answer()
        self.finished = asyncio.Event()

    def set_close_callback(self, callback: Any) -> None: ...

    def write_headers(self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None) -> Any:
        assert isinstance(start_line, ResponseStartLine)
        self.answer = Answer(start_line.code, headers, chunk or b"")
        return _done()

    def write(self, chunk: bytes) -> Any:
        self.answer.body += chunk
        return _done()

    def finish(self) -> None:
        self.finished.set()


def _words(page: str) -> str:
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def _done() -> Any:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
