"""Causes: failures of one kind are told apart from others, whatever ids and numbers are in their messages."""

import json

import pytest

from choreo.delivery.cause import cause_of, folded, group_of, read_cause
from choreo.delivery.failure import line_of, trace_of


def fail(error):
    raise error


def failed(call, *given):
    try:
        call(*given)
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("order ORD-17 is unknown", "order # is unknown"),
        ("no such card: 4000-0000", "no such card: #"),
        ("the customer 'anna' has none", "the customer # has none"),
        ('the customer "anna karenina" has none', "the customer # has none"),
        ("a value of 12.5, 13 and 14", "a value of # and #"),
        ("f47ac10b-58cc-4372-a567-0e02b2c3d479 is gone", "# is gone"),
        ("due 2026-11-30T19:45:00+01:00, not before", "due #, not before"),
        ("<Card object at 0x7f3a2c> is closed", "<Card object at #> is closed"),
        ("cannot reach 10.0.0.7:443.", "cannot reach #."),
        ("cannot reach redis://cache-2.shop:6379/0", "cannot reach #"),
        ("anna.k@example.com has moved", "# has moved"),
        ("timeout=30s", "timeout=#"),
        ("-5 cents, +7 and the over-night one", "# cents, # and the over-night one"),
        ("use --force or -x", "use --force or -x"),
        ("it doesn't fit, it can't", "it doesn't fit, it can't"),
        ("'currency'", "'currency'"),
        ("'ORD-1'", "#"),
        ("[1, 2, 3]", "[#]"),
        (
            "ORD-1 has version 12, and OrderPlaced reads version 1.",
            "# has version 12, and OrderPlaced reads version 1.",
        ),
        ("conversion 3 of version 2.1", "conversion # of version #"),
        ("the gateway is away", "the gateway is away"),
        ("", ""),
    ],
)
def test_variable_parts_of_a_message_are_folded(message, kind):
    assert folded(message) == kind


def test_a_folded_message_is_bounded():
    assert len(folded("long " * 1000)) == 200


def test_failures_that_differ_in_an_id_are_of_one_kind():
    one, other = failed(fail, ValueError("no order ORD-1")), failed(fail, ValueError("no order ORD-2"))

    assert cause_of(one).kind == cause_of(other).kind == "ValueError test_cause.fail no order #"


@pytest.mark.parametrize("other", [TypeError("no order ORD-1"), ValueError("no card C-1")])
def test_another_type_or_message_is_another_kind(other):
    assert cause_of(failed(fail, ValueError("no order ORD-1"))).kind != cause_of(failed(fail, other)).kind


def test_another_function_is_another_kind_and_another_line_is_not():
    def elsewhere(error):
        raise error

    def either(is_first):
        if is_first:
            raise ValueError
        raise ValueError

    first, second = cause_of(failed(either, True)), cause_of(failed(either, False))
    assert first.kind == second.kind
    assert first.line != second.line
    assert cause_of(failed(fail, ValueError())).kind != cause_of(failed(elsewhere, ValueError())).kind


def test_the_place_is_in_the_users_own_code_not_in_a_library():
    cause = cause_of(failed(json.loads, "{"))

    assert (cause.error, cause.file, cause.function) == ("JSONDecodeError", "test_cause", "failed")
    assert str(cause) == f"JSONDecodeError test_cause:{cause.line}: {cause.text}"


def test_an_error_that_was_never_raised_has_no_place():
    assert str(cause_of(ValueError("a"))) == "ValueError: a"


def chained():
    try:
        json.loads("{")
    except ValueError as error:
        raise LookupError("no 'menu'") from error


def grouped():
    raise ExceptionGroup("two of 2", [failed(fail, ValueError("a")), failed(fail, TypeError("b"))])


def nested():
    eval("1 / 0")


@pytest.mark.parametrize("call", [chained, grouped, nested, lambda: json.loads("{")])
def test_the_texts_of_a_letter_have_the_same_cause_as_its_error(call):
    error = failed(call)

    assert read_cause(line_of(error), trace_of(error)) == cause_of(error)
    assert cause_of(error).file == "test_cause"


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("ValueError: no card C-1", "ValueError", "no card #"),
        ("shop.errors.NoCard: C-1", "NoCard", "#"),
        ("TimeoutError", "TimeoutError", ""),
        ("begun 3 times and never finished", "", "begun # times and never finished"),
        ("it cannot be read: 'x'", "", "it cannot be read: #"),
        ("", "", ""),
    ],
)
def test_a_letter_without_a_traceback_has_a_cause_too(line, error, text):
    cause = read_cause(line, "")

    assert (cause.error, cause.text, cause.file) == (error, text, "")


def test_an_error_whose_text_raises_has_a_cause():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    assert cause_of(failed(fail, Odd())).error == "Odd"


def test_frames_of_another_machine_are_told_apart():
    trace = (
        "Traceback (most recent call last):\n"
        '  File "/app/venv/lib/python3.12/site-packages/choreo/delivery/delivery.py", line 9, in react\n'
        '  File "/app/shop/payment.py", line 94, in charge\n'
        '  File "/app/venv/lib/python3.12/site-packages/httpx/client.py", line 5, in send\n'
        '  File "/usr/lib/python3.12/socket.py", line 7, in connect\n'
        "ConnectionError: the gateway is away\n"
    )

    assert str(read_cause("ConnectionError: the gateway is away", trace)) == (
        "ConnectionError payment:94: the gateway is away"
    )


def test_a_group_depends_on_the_handler_and_the_reason():
    cause = cause_of(ValueError("a"))
    groups = {group_of("a.b", "refused", cause), group_of("a.c", "refused", cause), group_of("a.b", "poison", cause)}

    assert len(groups) == 3
    assert all(len(group) == 16 and int(group, 16) >= 0 for group in groups)
    assert group_of("a.b", "refused", cause) == group_of("a.b", "refused", cause_of(ValueError("a")))


def test_a_very_long_message_is_folded_at_once():
    # A pattern that tries each way to read a text would take hours for this one.
    assert folded("a." * 100_000 + "'") == ("a." * 100_000)[:200]
