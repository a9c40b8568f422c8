"""The pages inside Flower: its own application, in this process and without a socket."""

import base64
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from flower import urls
from flower.app import Flower
from flower.options import default_options
from flower.views import BaseHandler
from tornado.options import options as tornado_options
from tornado.web import RequestHandler

from choreo import Service
from choreo.web.flower import access_of, add_tabs, complete, may_change
from choreo.web.pages import TABS
from tests.unit.browser import Browser
from tests.unit.stage import Stage, service

LOGIN = {"Authorization": f"Basic {base64.b64encode(b'me:secret').decode()}"}


@pytest.fixture
def app() -> Service:
    app = service("payment")
    Stage(app)
    return app


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("flower.app.Flower.start", Flower.start)
    monkeypatch.setattr(BaseHandler, "get_active_queue_names", BaseHandler.get_active_queue_names)
    RequestHandler._template_loaders.clear()
    yield
    RequestHandler._template_loaders.clear()


@pytest.fixture
def flower(app: Service, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A callback: it returns a browser for a Flower with these options."""

    def made(**given: Any) -> Browser:
        for name, value in {"basic_auth": [], "auth": "", "url_prefix": "", "address": "", **given}.items():
            monkeypatch.setattr(tornado_options.mockable(), name, value)
        prefix = default_options.url_prefix
        settings = urls.settings | ({"login_url": f"/{prefix}/login"} if prefix else {})
        served = Flower(capp=app, options=default_options, io_loop=MagicMock(), events=MagicMock(), **settings)
        return Browser(add_tabs(served), served)

    return made


def test_the_pages_are_tabs_in_flowers_own_frame(flower):
    answer = flower().get("/choreo/flow")

    assert answer.status == 200
    assert "Broker" in answer.words
    assert "All well" in answer.words
    for page in TABS:
        assert f"/choreo{page.paths[0]}" in answer.links
    assert {"/workers", "/tasks", "/broker"} <= set(answer.links)


def test_flowers_own_pages_have_the_tabs(flower):
    links = flower().get("/tasks").links

    assert "/choreo/flow" in links
    assert "/choreo/map" in links


def test_an_error_is_in_the_frame_too(flower):
    answer = flower().get("/choreo/map", focus="nothing")

    assert answer.status == 404
    assert "/workers" in answer.links


def test_style_and_script_are_served_and_nothing_else(flower):
    asked = flower()

    for name in ("choreo.css", "choreo.js", "mark.svg"):
        assert asked.get(f"/choreo/static/{name}").status == 200
    assert asked.get("/choreo/static/../page.py").status in (403, 404)
    assert asked.get("/choreo/static/%2e%2e/page.py").status in (403, 404)


def test_behind_a_prefix_every_link_has_it(flower):
    asked = flower(url_prefix="ops")

    answer = asked.get("/ops/choreo/flow")

    assert answer.status == 200
    own = [link for link in answer.links if "choreo" in link]
    assert own
    assert all(link.startswith("/ops/choreo") for link in own)
    assert 'src="/ops/choreo/static/choreo.js' in answer.text
    assert "All well" not in asked.get("/choreo/flow").words


@pytest.mark.parametrize("path", ["/choreo/flow", "/choreo/map", "/choreo/", "/choreo/map?focus=x"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic bWU6Z3Vlc3M="}, {"Authorization": "nonsense"}])
def test_behind_a_login_nothing_is_shown_without_it(flower, path, headers):
    answer = flower(basic_auth=["me:secret"]).get(path, headers)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "<" not in answer.text


def test_behind_a_login_the_pages_are_shown_with_it(flower):
    assert flower(basic_auth=["me:secret"]).get("/choreo/flow", LOGIN).status == 200


def test_a_login_by_another_site_is_asked_for_as_flower_does(flower):
    answer = flower(auth="me@example.com", url_prefix="ops").get("/ops/choreo/flow")

    assert answer.status == 302
    assert answer.headers["Location"] == "/ops/login?next=%2Fops%2Fchoreo%2Fflow"


def test_without_a_login_a_foreign_name_learns_nothing(flower):
    asked = flower()

    assert asked.get("/choreo/flow", {"Host": "evil.example"}).status == 403
    assert asked.get("/choreo/flow", {"Host": "10.1.2.3:5555"}).status == 200
    assert asked.get("/choreo/flow", {"Host": "localhost:5555"}).status == 200


def test_with_a_login_every_name_is_its_own(flower):
    asked = flower(basic_auth=["me:secret"])

    assert asked.get("/choreo/flow", {"Host": "ops.example.com", **LOGIN}).status == 200


@pytest.mark.parametrize(
    ("setting", "options", "expected"),
    [
        (None, {"basic_auth": ["a:b"]}, False),
        (True, {"basic_auth": ["a:b"]}, True),
        (True, {"auth": "a@b"}, True),
        (True, {"address": "127.0.0.1"}, True),
        (True, {}, False),
        (True, {"address": "0.0.0.0"}, False),
        (True, {"basic_auth": ["a:b"], "read_only": True}, False),
    ],
)
def test_changes_need_the_setting_and_a_login(app, setting, options, expected, caplog):
    app.conf.choreo_flower_changes = setting
    told = SimpleNamespace(**{"basic_auth": None, "auth": "", "address": "", **options})

    with caplog.at_level(logging.WARNING):
        assert may_change(SimpleNamespace(capp=app, options=told)) is expected
    assert ("has no login" in caplog.text) == (bool(setting) and not expected and "read_only" not in options)


def test_names_of_this_machine_are_known_without_a_login(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Box7")

    assert access_of(SimpleNamespace(basic_auth=None, auth="")).knows("box7")


def test_flower_has_the_tabs_once_it_starts(app, monkeypatch):
    begun = []
    monkeypatch.setattr("flower.app.Flower.start", lambda flower: begun.append(flower))
    complete()
    complete()

    served = Flower(capp=app, options=default_options, io_loop=MagicMock(), events=MagicMock(), **urls.settings)
    served.start()

    assert begun == [served]
    assert served.settings["template_loader"]
    routes = [rule for rules in served.default_router.rules for rule in rules.target.rules if "choreo" in str(rule)]
    assert routes, "added once"
