"""A declaration that is refused names the line of the user's code."""

from pathlib import Path

import pytest

from choreo import DeclarationError, Event, Service
from choreo.places import shown
from tests.unit.events import OrderPlaced
from tests.unit.stage import service

HERE = shown(__file__)


def line_of(text: str) -> int:
    """The number of the only line of this file that ends in this text."""
    (number,) = [n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith(text)]
    return number


def test_the_error_of_an_event_class_names_the_line_of_the_class() -> None:
    with pytest.raises(DeclarationError) as caught:

        class ChargePayment(Event):  # the class
            amount_cents: int

    assert caught.value.place == f"{HERE}:{line_of('# the class')}"
    assert str(caught.value).endswith(f" ({caught.value.place})")


def test_the_error_of_a_handler_names_the_line_of_its_declaration() -> None:
    app = service("payment")

    with pytest.raises(DeclarationError) as caught:

        @app.on(OrderPlaced)  # the handler
        def charge(order): ...

    assert caught.value.place == f"{HERE}:{line_of('# the handler')}"


def test_an_error_that_no_code_of_the_user_led_to_names_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo.places.is_library", lambda _: True)

    with pytest.raises(DeclarationError) as caught:
        Service("pay ment")

    assert caught.value.place == ""
    assert str(caught.value).endswith("Write it like a_name.")


def test_a_file_elsewhere_is_shown_with_its_whole_path(tmp_path: Path) -> None:
    assert shown(str(tmp_path / "events.py")) == str(tmp_path / "events.py")
    assert shown("<stdin>") == "<stdin>"
