"""The code of docs/async.md, run as it is printed there."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import choreo
from choreo import Envelope, PublishError
from choreo.testing import recorder
from tests.unit.stage import service

TEXT = (Path(choreo.__file__).parents[1] / "docs" / "async.md").read_text()
#: The headings whose blocks are run here, in this order.
HEADINGS = ("Publishing", "When an await is cancelled")


def blocks_under(heading: str) -> list[str]:
    sections = dict(re.findall(r"^#+ (.*?)\n(.*?)(?=^#+ |\Z)", TEXT, re.M | re.S))
    return re.findall(r"^```python\n(.*?)^```", sections[heading], re.M | re.S)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the blocks define. Its service needs no broker."""
    monkeypatch.setattr(choreo, "Service", service)
    names: dict[str, Any] = {"__name__": "async_page"}
    for heading in HEADINGS:
        for block in blocks_under(heading):
            exec(compile(block, f"async.md: {heading}", "exec"), names)
    return names


def test_an_order_is_placed_or_refused(page: dict[str, Any]) -> None:
    with recorder(page["app"]) as recorded:
        assert asyncio.run(page["place_order"]("ORD-1", "alice")) == 202
        recorded.fails = PublishError("no connection")
        assert asyncio.run(page["place_order"]("ORD-2", "alice")) == 503

    assert recorded.announced(page["OrderPlaced"], subject="ORD-1").one().customer_id == "alice"


def test_the_rows_of_a_database_become_events(page: dict[str, Any]) -> None:
    with recorder(page["app"]) as recorded:
        assert asyncio.run(page["announce_again"]()) == 1200

    assert recorded.events[-1].subject == "ORD-1199"


def test_what_may_have_been_announced_is_kept_and_announced_again(page: dict[str, Any]) -> None:
    kept: list[Envelope] = []

    def keep_for_later(envelopes: Sequence[Envelope]) -> None:
        kept.extend(envelopes)

    page["keep_for_later"] = keep_for_later
    with recorder(page["app"], fails=PublishError("no connection")) as recorded:
        assert not asyncio.run(page["announce_in_time"]("ORD-1"))
        recorded.fails = None
        asyncio.run(page["app"].publisher.aannounce(kept))

    assert recorded.events == kept
    assert len(kept) == 1
