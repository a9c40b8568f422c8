"""The code of docs/testing.md and of the README's section on tests is run as printed."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import _state

import choreo.testing

ROOT = Path(__file__).parents[2]
#: The service of the README's first example.
PAYMENT = """
from choreo import Event, Service

class OrderPlaced(Event):
    customer_id: str
    total_cents: int

class PaymentCharged(Event):
    customer_id: str
    amount_cents: int

class payment:
    app = Service("payment", config=None, set_as_current=False)

@payment.app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> PaymentCharged:
    return PaymentCharged(customer_id=order.customer_id, amount_cents=order.total_cents)
"""


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def names_of(*code: str) -> dict[str, Any]:
    """The names that these blocks define, executed one after the other."""
    names: dict[str, Any] = {"__name__": __name__}
    current = _state._tls.current_app
    for block in code:
        exec(block, names)
    # The last service that a program makes is Celery's current app. The other tests have none of this page.
    _state._tls.current_app = current
    return names


def functions_in(names: dict[str, Any]) -> dict[str, Callable[[], None]]:
    return {name: thing for name, thing in names.items() if name.startswith("test_")}


def section(heading: str) -> str:
    return (ROOT / "README.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]


TEXT = (ROOT / "docs" / "testing.md").read_text()
NAMES = names_of(*blocks(TEXT))
PAGE = functions_in(NAMES)
README = functions_in(
    names_of(PAYMENT, *[re.sub(r"^from shop.*\n", "", code, flags=re.M) for code in blocks(section("Test it"))])
)


@pytest.fixture(autouse=True)
def _quiet():
    NAMES["alarms"].clear()


@pytest.mark.parametrize("name", PAGE)
def test_the_page_about_tests_works_as_printed(name: str):
    PAGE[name]()


@pytest.mark.parametrize("name", README)
def test_the_readmes_tests_work_as_printed(name: str):
    README[name]()


def test_the_page_shows_an_error_as_it_is():
    services = (NAMES[name] for name in ("payment", "restaurant", "driver"))
    platform = choreo.testing.stage(*services, start=datetime(2030, 1, 1, 12, tzinfo=UTC))
    platform.publish(NAMES["OrderPlaced"](customer_id="victor", total_cents=2500), subject="ORD-1")
    platform.run()

    with pytest.raises(AssertionError) as caught:
        platform.announced(NAMES["DriverAssigned"], subject="ORD-1").one()

    assert f"```\nAssertionError: {caught.value}\n```" in TEXT


def test_a_flow_is_tested_in_five_lines():
    (code,) = [code for code in blocks(TEXT) if "gets_a_driver" in code][:1]

    assert len(code.partition("def ")[2].rstrip().splitlines()) == 5


def test_the_page_speaks_of_everything_that_choreo_testing_offers_to_call():
    functions = [name for name in choreo.testing.__all__ if name.islower()]
    assert functions == ["announced", "context", "recorder", "stage"]
    for name in functions:
        assert f"{name}(" in TEXT, name
    assert "[testing]" in section("Test it")


@pytest.mark.parametrize("name", choreo.testing.__all__)
def test_every_public_name_is_documented(name: str):
    thing = getattr(choreo.testing, name)
    assert thing.__doc__
    for member in vars(thing).values() if isinstance(thing, type) else ():
        if isinstance(member, property) or (callable(member) and not member.__name__.startswith("_")):
            assert member.__doc__, member
