"""The code of docs/evolution.md is run as printed."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from choreo import Event, Upcast
from tests.unit.stage import service
from tests.unit.test_docs import blocks

TEXT = (Path(__file__).parents[2] / "docs" / "evolution.md").read_text()


class Address(BaseModel):
    street: str
    country: str


@pytest.fixture
def names() -> dict[str, Any]:
    known: dict[str, Any] = {"__name__": __name__, "app": service(), "Any": Any, "Literal": Literal}
    return known | {"Event": Event, "Upcast": Upcast, "Address": Address}


def test_each_block_of_the_page_can_be_declared(names: dict[str, Any]) -> None:
    for block in blocks(TEXT):
        exec(block, names)

    assert names["CustomerRegistered"].event_version == 4


def test_the_tests_of_the_page_work(names: dict[str, Any]) -> None:
    several, tests = blocks(TEXT)[-2:]

    exec(several + tests, names)

    names["test_orders_of_version_1_are_charged"]()
    names["test_version_1_is_read_as_what_it_meant"]()
