"""Foreign text is shown without what acts on a terminal, forges a line of a log, or cannot be printed at all."""

import logging
import sys
from typing import Any

import pytest

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.failure import line_of
from choreo.delivery.notice import log_dead_letter
from choreo.events.message import Message
from choreo.printing import lines, one_line
from choreo.worker.logs import PlainFailures
from tests.unit.events import OrderPlaced, envelope

#: Each is a subject, a type, a name or an error that somebody may send.
HOSTILE = {
    "the title of the terminal": "\x1b]0;owned\x07",
    "colours": "\x1b[31mred",
    "8-bit controls": "\x9b31m",
    "a forged line": "ORD-1\n2026-01-01 CRITICAL all is lost",
    "a carriage return": "ORD-1\rORD-2",
    "other line ends": "a\u2028b\u2029c\x85d\x0be",
    "turned text": "\u202egnirts\u2066x\u2069\u200f",
    "half a surrogate pair": "ORD-\ud800",
    "no character": "\uffff\U000e0001",
    "zero": "a\x00b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
class TestHostileText:
    def test_one_line_can_be_printed_anywhere(self, text: str) -> None:
        shown = one_line(text)

        assert shown.isprintable()
        shown.encode()
        assert len(shown) > len(text)

    def test_an_event_and_its_letter_are_shown_in_one_plain_line(self, text: str) -> None:
        event = envelope(OrderPlaced(customer_id="alice"), subject=text)
        letter = DeadLetter("payment", text, Reason.REFUSED, text, Message("", "q", b""), envelopes=(event,))

        assert str(event).isprintable()
        assert str(letter).isprintable()

    def test_an_error_is_one_plain_line(self, text: str) -> None:
        assert line_of(ValueError(text)).isprintable()

    def test_the_log_of_a_dead_letter_is_one_plain_line(self, text: str, caplog: pytest.LogCaptureFixture) -> None:
        event = envelope(OrderPlaced(customer_id="alice"), subject=text)

        log_dead_letter(DeadLetter("payment", text, Reason.REFUSED, text, Message("", "q", b""), envelopes=(event,)))

        assert caplog.messages[0].isprintable()

    def test_celerys_log_of_a_failure_is_plain(self, text: str) -> None:
        try:
            raise ValueError(text)
        except ValueError:
            record: Any = logging.LogRecord("x", logging.ERROR, "", 1, "%s failed", (text,), sys.exc_info())

        assert PlainFailures().filter(record)

        assert record.getMessage().isprintable()
        shown = logging.Formatter().format(record)
        assert all(line.isprintable() for line in shown.split("\n"))
        assert "Traceback" in shown


@pytest.mark.parametrize("text", ["", "ORD-1", "Müller 東京\u3000駅", "a b", "emoji \U0001f600", "مرحبا"])
def test_other_text_is_shown_as_it_is(text: str) -> None:
    assert one_line(text) == lines(text) == text


def test_a_traceback_keeps_its_lines() -> None:
    assert lines("a\n\tb \x1b[0m\nc") == "a\n\tb \\x1b[0m\nc"
