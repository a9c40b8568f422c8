"""A text that cannot be written as UTF-8 is found where it is announced: half a surrogate pair."""

from datetime import timedelta
from typing import Any

import pytest

from choreo import Event, InvalidEventError, Reason, Retry, Service
from tests.unit.events import OrderPlaced, envelope
from tests.unit.stage import Stage, service

HALF = "a\ud800"


class ParcelPacked(Event):
    note: Any = None


@pytest.fixture
def app() -> Service:
    return service("shop")


@pytest.mark.parametrize(
    ("event", "subject", "place"),
    [
        (ParcelPacked(note=HALF), "P-1", r"data\.note = 'a\\ud800'"),
        (ParcelPacked(note={"to": ["x", HALF]}), "P-1", r"data\.note\.to\[1\] = 'a\\ud800'"),
        (ParcelPacked(), HALF, r"subject = 'a\\ud800'"),
        (ParcelPacked().about(HALF), None, r"subject = 'a\\ud800'"),
        (ParcelPacked.model_construct(note=HALF), "P-1", r"data\.note = "),
    ],
)
@pytest.mark.parametrize("options", [{}, {"delay": timedelta(seconds=1)}])
def test_publish_names_the_event_and_the_field(
    app: Service, event: Event, subject: str | None, place: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidEventError, match=rf"^parcel\.packed: {place}.* UTF-8.*errors='replace'"):
        app.publish(event, subject, **options)


def test_a_handler_that_announces_one_fails_at_once_and_its_letter_says_so() -> None:
    app = service("shop")

    @app.on(OrderPlaced, retry=Retry(times=3))
    def pack(order: OrderPlaced) -> ParcelPacked:
        return ParcelPacked(note=HALF)

    stage = Stage(app)
    stage.deliver(envelope(OrderPlaced(customer_id="alice", total_cents=5)))

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.REFUSED
    assert "parcel.packed: data.note" in letter.error
