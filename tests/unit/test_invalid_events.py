"""What cannot be announced: the error names event and field, and in a handler it is a permanent failure."""

from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_OID

import pytest
from pydantic import ConfigDict, computed_field, field_serializer

from choreo import DeclarationError, Envelope, Event, InvalidEventError, Reason, Service
from choreo.broker.publisher import MAX_EVENT_BYTES
from choreo.errors import EventTooLargeError
from tests.unit.events import OrderPlaced, PaymentCharged
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")


class PhotoTaken(Event):
    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    anything: Any = None
    number: int = 0


class ReportPrinted(Event):
    pages: int = 1

    @field_serializer("pages")
    def _odd(self, pages: int) -> int:
        raise LookupError(f"no page {pages}")


class ReportSent(Event):
    @computed_field
    @property
    def size(self) -> int:
        raise OSError("no such file")


class Opaque:
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)

INVALID = {
    "bytes": (PhotoTaken(anything=b"\xff\xd8\xff"), r"PhotoTaken\.anything cannot be announced: .*Base64Bytes"),
    "an object": (PhotoTaken(anything=Opaque()), r"PhotoTaken\.anything cannot be announced: .*Opaque"),
    "bytes inside": (PhotoTaken(anything={"raw": [b"\xff"]}), r"PhotoTaken\.anything cannot be announced"),
    "a loop": (PhotoTaken(anything=LOOP), r"PhotoTaken\.anything cannot be announced"),
    "an enormous number": (
        PhotoTaken(number=10**5000),
        r"photo\.taken ORD-1: number cannot be written as JSON: .*4300",
    ),
    "half a surrogate pair": (PhotoTaken(anything="\ud800"), r"data\.anything = .* cannot be written as UTF-8"),
    "a serializer that raises": (ReportPrinted(), r"ReportPrinted\.pages cannot be announced: .*no page 1"),
    "a computed field that raises": (ReportSent(), r"ReportSent\.size cannot be announced: .*no such file"),
    "an enormous value": (PhotoTaken(anything=b"\xff" * 20_000_000), r"PhotoTaken\.anything cannot be announced"),
}


def failing(*returned: Any, publish: bool = False) -> Stage:
    app = service("camera")

    @app.on(OrderPlaced)
    def take(order: Envelope):  # type: ignore[no-untyped-def]
        if publish:
            app.publish(*returned)
            return None
        return returned[0]

    return Stage(app)


@pytest.mark.parametrize("kind", INVALID)
def test_an_event_that_cannot_be_written_as_json_is_refused_with_its_field_and_the_way_out(kind: str):
    event, text = INVALID[kind]
    stage = Stage(service("camera"))

    with pytest.raises(InvalidEventError, match=text) as refused:
        stage.app.publish(event, subject="ORD-1")

    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("publish", [True, False])
@pytest.mark.parametrize("kind", INVALID)
def test_such_an_event_is_a_permanent_failure_of_the_handler(kind: str, publish: bool):
    event, _ = INVALID[kind]
    stage = failing(event, publish=publish)

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.REFUSED
    assert letter.error.startswith("InvalidEventError: ")
    assert letter.attempts == 1
    assert stage.types == []


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ({"order": 1}, "take returned {'order': 1}"),
        ([PaymentCharged(), 5], "take returned 5"),
        ("paid", "take returned 'paid'"),
        ({PaymentCharged()}, "take returned {PaymentCharged("),
        (PaymentCharged, "That is a class of events: return PaymentCharged(...)."),
        ([PaymentCharged], "That is a class of events: return PaymentCharged(...)."),
        ("x" * 20_000_000, "take returned 'xxx"),
    ],
)
def test_a_handler_that_returns_something_else_fails_for_good(returned: Any, text: str):
    stage = failing(returned)

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.attempts) == (Reason.REFUSED, 1)
    assert text in letter.error
    assert len(letter.error) < 1000


@pytest.mark.parametrize("published", [{"order": 1}, PaymentCharged, None])
def test_publishing_something_else_in_a_handler_fails_for_good(published: Any):
    stage = failing(published, publish=True)

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.attempts) == (Reason.REFUSED, 1)
    assert "cannot be announced" in letter.error


@pytest.mark.parametrize("subject", [5, b"ORD-1", ["ORD-1"]])
def test_a_subject_that_is_no_text_fails_for_good(subject: Any):
    stage = failing(PaymentCharged(), subject, publish=True)

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.attempts) == (Reason.REFUSED, 1)
    assert "the subject of an event is a text" in letter.error


def test_an_event_that_is_too_large_fails_for_good():
    stage = failing(PhotoTaken(anything="x" * (MAX_EVENT_BYTES + 1)))

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.attempts) == (Reason.REFUSED, 1)
    assert letter.error.startswith(EventTooLargeError.__name__)


def test_what_pydantic_can_write_is_announced():
    stage = failing(PhotoTaken(anything=[b"text", Decimal("1.5"), NAMESPACE_OID, {1}]))

    stage.deliver(ORDER)

    (event,) = stage.events
    assert event.data == {"anything": ["text", "1.5", str(NAMESPACE_OID), [1]], "number": 0}


@pytest.mark.parametrize("annotation", [dict, list[dict], str, int, dict[str, int], Event, "PaymentCharged | dict"])
def test_an_annotation_that_names_something_else_is_refused_at_declaration(annotation: Any):
    app = Service("camera", config=None, broker="memory://", set_as_current=False)

    def take(order: OrderPlaced) -> None: ...

    take.__annotations__["return"] = annotation
    with pytest.raises(DeclarationError, match=r"take returns .*(is not an event|the base of many events)"):
        app.on(OrderPlaced)(take)


@pytest.mark.parametrize("events", [PaymentCharged(), PaymentCharged])
def test_one_event_in_place_of_several_is_refused_with_the_way_out(events: Any):
    with pytest.raises(DeclarationError, match=r"publish_many\(\[PaymentCharged\(\.\.\.\)\]\)"):
        Stage(service("camera")).app.publish_many(events)


def test_the_base_of_all_events_is_refused_as_abstract():
    with pytest.raises(DeclarationError, match="Event is abstract"):
        Stage(service("camera")).app.publish(Event)
