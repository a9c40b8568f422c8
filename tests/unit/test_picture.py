"""The map as a picture: Mermaid, Graphviz, SVG."""

import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from choreo import ChoreoError
from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.observe import graphviz
from choreo.observe.graphviz import svg
from choreo.observe.map import drawn
from choreo.observe.picture import Picture
from tests.unit.metropolis import EVENTS, metropolis
from tests.unit.test_map import ANALYTICS, DRIVER, ORDER, PAYMENT

SHOP = drawn([ORDER, PAYMENT, DRIVER, ANALYTICS])
NASTY = drawn([ServiceDescription('a"b', (HandlerDescription('a"b.<c>#\x1b', ("x.y",), ("x.y_z", "x_y.z")),))])


def test_mermaid_shows_services_handlers_events_and_arrows():
    text = Picture(SHOP).mermaid()

    assert text.startswith("flowchart LR\n")
    for line in (
        '  e_order_placed("order.placed")',
        '  e_driver_assigned("driver.assigned"):::lonely',
        '  subgraph s_payment["payment"]',
        '    h_payment_charge["charge"]',
        '    h_driver_assign{{"assign"}}',
        '    h_order(["order"])',
        '    h_analytics_count["count hears #35;"]',
        "  h_order --> e_order_placed",
        "  e_order_placed --> h_payment_charge",
        "  h_payment_charge --> e_payment_charged",
        "  e_payment_failed --x h_driver_assign",
        "  h_driver_assign -. timeout .-> e_order_delayed",
        "  h_driver -. dead letter .-> e_operator_alarmed",
    ):
        assert line in text.splitlines()


def test_dot_shows_the_same_in_the_colours_of_the_services():
    text = Picture(SHOP).dot()

    assert 'e_order_placed [label="order.placed"' in text
    assert 'h_payment_charge [label="payment\\ncharge"' in text
    assert 'peripheries="2"' in text, "a join"
    assert "  h_payment_charge -> e_payment_charged\n" in text
    assert "e_payment_failed -> h_driver_assign [arrowhead=tee" in text
    fills = dict(re.findall(r'h_(\w+) \[.*fillcolor="(#\w+)"', text))
    assert fills["driver"] == fills["driver_assign"] != fills["payment_charge"]


def test_names_are_escaped_and_no_two_nodes_have_one_id():
    picture = Picture(NASTY)

    assert len(set(picture._ids().values())) == len(picture.nodes) == 4
    assert '"#lt;c#gt;#35;\\x1b"' in picture.mermaid()
    assert '"a\\"b\\n<c>#\\\\x1b"' in picture.dot()
    assert "\x1b" not in picture.mermaid() + picture.dot()
    ElementTree.fromstring(svg(picture))


def test_the_picture_of_a_large_platform_shows_everything_and_is_no_ribbon():
    picture = Picture(drawn(metropolis(), types=EVENTS))

    drawing = ElementTree.fromstring(svg(picture))

    texts = {element.text for element in drawing.iter() if element.tag.endswith("}text")}
    assert set(EVENTS) <= texts
    assert {"storefront", "bring_together", "count_event hears #"} <= texts
    width, height = (float(drawing.get(side, "0").removesuffix("pt")) for side in ("width", "height"))
    assert max(width, height) < 3 * min(width, height)


def test_without_graphviz_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(ChoreoError, match=r"Run `pip install '\.\[map\]'` in a checkout, or install graphviz"):
        svg(Picture(SHOP))


def test_a_graphviz_that_fails_is_named_with_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho 'no fonts here' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(graphviz, "_program", lambda: str(program))

    with pytest.raises(ChoreoError, match=r"dot did not make the picture: no fonts here"):
        svg(Picture(SHOP))


def test_a_graphviz_of_the_system_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "dot").write_text("#!/bin/sh\n")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert graphviz._program() == shutil.which("dot")
