"""The page Map: its picture, its table, and the part of it around one node."""

import re
import shutil
import xml.etree.ElementTree as ET

import pytest

from choreo import Service
from choreo.errors import ChoreoError
from choreo.observe.handlers import HandlerState
from choreo.observe.map import drawn
from choreo.observe.observer import Observer
from choreo.observe.picture import Picture
from choreo.web import layout as layouts
from choreo.web.layout import layout
from choreo.web.map import level
from choreo.web.site import Site
from tests.unit.browser import Answer, Browser
from tests.unit.metropolis import metropolis
from tests.unit.stage import service


@pytest.fixture(autouse=True)
def town(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Observer, "map", lambda _: drawn(metropolis()))


@pytest.fixture
def app() -> Service:
    return service()


def page(app: Service, **query: str) -> Answer:
    return Browser(Site(app)).get("/map", **query)


def picture(answer: Answer) -> ET.Element:
    return ET.fromstring(re.search(r'<svg class="map".*?</svg>', answer.text, re.DOTALL)[0])


def test_every_event_and_handler_is_a_node_that_leads_to_what_is_around_it(app):
    answer = page(app)
    shown = drawn(metropolis())

    nodes = {node.get("href") for node in picture(answer).iter() if node.get("href")}
    for one in [event.type for event in shown.events] + [handler.name for handler in shown.handlers]:
        assert f"/map?focus={one}" in nodes
        assert one in answer.words


def test_the_table_says_what_the_picture_says(app):
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', page(app).text, re.DOTALL)

    for event in drawn(metropolis()).events:
        row = next(row for row in rows if f">{event.type}</a>" in row)
        for one in (*event.announced_by, *event.heard_by):
            assert one.name in row


def test_the_part_around_a_node(app):
    whole, part = page(app), page(app, focus="payment.opened")

    assert part.status == 200
    assert len(list(picture(part).iter())) < len(list(picture(whole).iter())) / 2
    assert "focus" in next(
        node.get("class") for node in picture(part).iter() if node.get("href") == "/map?focus=payment.opened"
    )
    assert "/map" in part.links


def test_the_part_around_a_handler_says_what_it_declares(app):
    handler = next(one for one in drawn(metropolis()).handlers if one.announces and one.reads)

    shown = page(app, focus=handler.name).words

    assert handler.announces[0] in shown
    assert next(iter(handler.reads.values()))[0] in shown


def test_what_is_not_on_the_map_is_404_with_a_guess(app):
    answer = page(app, focus="payment.opend")

    assert answer.status == 404
    assert "payment.opend" in answer.words
    assert "Did you mean payment.opened?" in answer.words


def test_without_graphviz_the_table_is_there_and_the_way_out(app, monkeypatch):
    monkeypatch.setattr("choreo.observe.graphviz._program", lambda: None)
    layouts._plain.cache_clear()

    answer = page(app)

    assert answer.status == 200
    assert "No picture" in answer.words
    assert "install graphviz" in answer.words
    assert "payment.opened" in answer.words
    layouts._plain.cache_clear()


def test_a_map_that_is_too_large_for_a_picture_has_its_table(app, monkeypatch):
    monkeypatch.setattr("choreo.web.map.MOST_NODES", 10)

    assert "too many for one picture" in page(app).words


def test_the_same_map_is_laid_out_once(monkeypatch):
    calls = []
    real = layouts.laid_out
    monkeypatch.setattr(layouts, "laid_out", lambda *told: calls.append(told) or real(*told))
    layouts._plain.cache_clear()

    for _ in range(3):
        layout(Picture(drawn(metropolis())))

    assert len(calls) == 2


@pytest.mark.parametrize("program", ["dot", "graphviz-pure"])
def test_every_node_and_edge_is_laid_out(monkeypatch, program):
    found = shutil.which(program) or shutil.which(
        program, path=str(layouts.__file__ and __import__("sys").prefix) + "/bin"
    )
    if found is None:
        pytest.skip(f"no {program} here")
    monkeypatch.setattr("choreo.observe.graphviz._program", lambda: found)
    layouts._plain.cache_clear()
    wanted = Picture(drawn(metropolis()))

    plan = layout(wanted)

    assert {box.node for box in plan.boxes} == set(wanted.nodes)
    assert sorted(map(repr, (arrow.edge for arrow in plan.arrows))) == sorted(map(repr, wanted.edges))
    assert all(box.left >= 0 and box.left + box.width <= plan.width + 1 for box in plan.boxes)
    assert all(box.top >= 0 and box.top + box.height <= plan.height + 1 for box in plan.boxes)
    assert not any(overlap(one, other) for one in plan.boxes for other in plan.boxes if one is not other)
    layouts._plain.cache_clear()


def overlap(one: layouts.Box, other: layouts.Box) -> bool:
    return (
        abs(one.x - other.x) < (one.width + other.width) / 2 - 1
        and abs(one.y - other.y) < (one.height + other.height) / 2 - 1
    )


def test_a_graphviz_that_fails_leaves_the_table(app, monkeypatch):
    def fail(*_):
        raise ChoreoError("it crashed")

    monkeypatch.setattr(layouts, "laid_out", fail)
    layouts._plain.cache_clear()

    assert "it crashed" in page(app).words


@pytest.mark.parametrize(("waiting", "expected"), [(None, 0), (0, 0), (1, 1), (9, 1), (10, 2), (100, 3), (999_999, 4)])
def test_the_colour_says_how_much_waits(waiting, expected):
    assert level({"a.b": HandlerState("a.b", waiting=waiting)}, "a.b") == expected
    assert level({}, "a.b") == 0
