"""The house of the pages: who may ask, what may be changed, and what a page says when something is wrong."""

import asyncio
import base64
import logging
import threading
from collections.abc import Iterator

import pytest

from choreo.errors import JoinError, StoreError
from choreo.operate.repairs import this_person
from choreo.web import pages, site
from choreo.web.access import Access, is_loopback
from choreo.web.page import Page
from choreo.web.server import application
from choreo.web.site import Site
from tests.unit.browser import Browser
from tests.unit.stage import service

QUEUE = ["payment.charge"]


class DrainPage(Page):
    """A page that empties a queue."""

    title = "Drain"
    paths = (r"/drain", r"/drain/(.+)")

    async def get(self, name: str = "") -> None:
        if name == "locked":
            raise JoinError("The join is locked: 100% <full>.")
        if name:
            self.missing(f"There is no queue named {name}.")
        found = await self.ask(lambda: list(QUEUE))
        self.show("drain.html", found=found)

    async def post(self) -> None:
        reason = self.reason()
        await self.ask(QUEUE.clear)
        # A subject may have any characters.
        self.changed("Emptied 1 queue.\n", self.site.link("drain"), reason=reason)


@pytest.fixture(autouse=True)
def drain(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    for template in site.TEMPLATES.iterdir():
        (tmp_path / template.name).write_text(template.read_text())
    (tmp_path / "drain.html").write_text(
        '{% extends "layout.html" %}{% block content %}{% for name in found %}<b>{{ name }}</b>{% end %}'
        '<form method="post">{% module xsrf_form_html() %}</form>{% end %}'
    )
    monkeypatch.setattr(Page, "get_template_path", lambda _: str(tmp_path))
    monkeypatch.setattr("choreo.web.server.OTHERS", (*pages.OTHERS, DrainPage))
    Page._template_loaders.clear()
    QUEUE[:] = ["payment.charge"]
    yield
    Page._template_loaders.clear()


def browser(**options) -> Browser:
    return Browser(Site(service(), **options))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5556", "127.0.0.1.evil.example", "10.0.0.5"])
@pytest.mark.parametrize("path", ["/drain", "/nowhere"])
def test_a_foreign_name_learns_nothing(host, path):
    answer = browser().get(path, {"Host": host})

    assert answer.status in (400, 403)
    assert "payment" not in answer.text
    assert "<" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "BREW"])
@pytest.mark.parametrize(("host", "password", "status"), [("evil.example", "", 403), ("127.0.0.1:5556", "secret", 401)])
def test_a_request_that_is_refused_before_it_is_read_learns_nothing_either(method, host, password, status):
    asked = browser(access=Access(password=password), allows_changes=True)

    answer = asked.send(method, "/drain", {"Host": host})

    assert answer.status == status
    assert "<" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:5556", "localhost:5556", "LOCALHOST", "[::1]:5556"])
def test_this_machine_has_several_names(host):
    assert browser().get("/drain", {"Host": host}).status == 200


def test_a_server_for_others_answers_to_every_address_and_to_the_names_it_was_given():
    asked = browser(access=Access({"ops.example.com"}, is_any_address=True))

    assert asked.get("/drain", {"Host": "10.0.0.5:5556"}).status == 200
    assert asked.get("/drain", {"Host": "ops.example.com"}).status == 200
    assert asked.get("/drain", {"Host": "evil.example"}).status == 403


@pytest.mark.parametrize("login", [None, "me:guess", "secret:", "me", "ä"])
def test_without_the_password_nothing_is_shown(login):
    headers = {} if login is None else {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    answer = browser(access=Access(password="secret")).get("/drain", headers)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert "payment" not in answer.text


def test_with_the_password_it_is_shown_to_any_user():
    headers = {"Authorization": f"Basic {base64.b64encode(b'anybody:secret').decode()}"}

    assert browser(access=Access(password="secret")).get("/drain", headers).status == 200


@pytest.mark.parametrize("header", ["Basic !!!", "Basic", "Bearer secret", "basic c2VjcmV0"])
def test_a_login_that_cannot_be_read_is_refused(header):
    assert browser(access=Access(password="secret")).get("/drain", {"Authorization": header}).status == 401


@pytest.mark.parametrize("path", ["/drain", "/nowhere", "/static/choreo.css", "/drain/locked", "/"])
def test_no_answer_may_be_framed_or_run_a_foreign_script(path):
    headers = browser().get(path).headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in headers


def test_a_change_needs_pages_that_may_change():
    asked = browser()
    asked.get("/drain")

    answer = asked.post("/drain", reason="a test")

    assert answer.status == 403
    assert "--allow-changes" in answer.words
    assert QUEUE


def test_a_change_is_made_logged_and_told(caplog):
    asked = browser(allows_changes=True)
    asked.get("/drain")

    with caplog.at_level(logging.INFO, "choreo.web"):
        told = asked.follow(asked.post("/drain", reason="a test\nwith a line"))

    assert not QUEUE
    assert "Emptied 1 queue." in told.words
    assert caplog.messages == [f"Emptied 1 queue.\\n By {this_person()} (web): a test\\nwith a line"]


def test_a_change_without_a_reason_is_refused():
    asked = browser(allows_changes=True)
    asked.get("/drain")

    answer = asked.post("/drain", reason="  ")

    assert answer.status == 400
    assert "Say why" in answer.words
    assert QUEUE


def test_a_change_without_the_token_of_the_page_is_refused():
    answer = browser(allows_changes=True).post("/drain", reason="a test")

    assert answer.status == 403
    assert QUEUE


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_a_foreign_page_is_refused_although_it_has_the_token(headers):
    asked = browser(allows_changes=True)
    asked.get("/drain")

    assert asked.forge("/drain", headers, {"reason": "a test"}).status == 403
    assert QUEUE


def test_news_cannot_be_made_by_a_link():
    assert "Your account" not in browser().get("/drain", news="Your account is closed").text


def test_what_is_not_there_is_404_with_a_way_out():
    answer = browser().get("/drain/cellar<b>")

    assert answer.status == 404
    assert "There is no queue named cellar<b>." in answer.words
    assert "/" in answer.links


def test_an_error_of_the_platform_is_said_as_it_is():
    answer = browser().get("/drain/locked")

    assert answer.status == 400
    assert "The join is locked: 100% <full>." in answer.words


def test_while_the_store_is_away_a_page_says_so_and_comes_back(monkeypatch):
    asked = browser()

    async def away(*_):
        raise StoreError("Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(Site, "ask", away)
        answer = asked.get("/drain")

    assert answer.status == 503
    assert "The store does not answer" in answer.words
    assert "Connection refused" in answer.words
    assert answer.headers["Refresh"] == "5"
    assert asked.get("/drain").status == 200


def test_a_slow_answer_holds_up_no_other_page():
    asked = Site(service())
    let_go = threading.Event()

    async def both() -> str:
        slow = asyncio.create_task(asked.ask(let_go.wait))
        quick = await asyncio.wait_for(asked.ask(lambda: "quick"), 30)
        let_go.set()
        await slow
        return quick

    assert asyncio.run(both()) == "quick"


def test_a_question_without_an_answer_is_an_error_of_the_store(monkeypatch):
    monkeypatch.setattr("choreo.web.site.PATIENCE", 0.01)
    let_go = threading.Event()

    with pytest.raises(StoreError, match="no answer"):
        asyncio.run(Site(service()).ask(lambda: let_go.wait(30)))
    let_go.set()


def test_the_pages_can_be_below_a_path():
    served = Browser(Site(service(), base="/choreo"))

    answer = served.get("/choreo/drain")

    assert answer.status == 200
    assert all(link.startswith(("/choreo", "#")) for link in answer.links)
    assert served.get("/drain").status == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_only_this_machine_reaches_these(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.com", "localhost.example.com"])
def test_others_reach_these(host):
    assert not is_loopback(host)


def test_the_pages_load_nothing_from_outside():
    for file in [*site.STATIC.iterdir(), *site.TEMPLATES.iterdir()]:
        text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert "style=" not in text, file
        assert "onclick" not in text, file


def test_all_pages_have_a_path_of_their_own():
    paths = [path for page in (*pages.TABS, *pages.OTHERS) for path in page.paths]

    assert len(set(paths)) == len(paths)
    assert application(Site(service()))
