"""Exponential backoff with full jitter, and its worst case beforehand."""

import math
import statistics
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo import PermanentFailure, Retry, RetryLater
from choreo.errors import DeclarationError


class GatewayDown(Exception):
    pass


class CardRefused(Exception):
    pass


class CardStolen(CardRefused):
    pass


def test_each_wait_may_be_twice_as_long_as_the_one_before_up_to_the_cap():
    retry = Retry(times=8, first=0.5, cap=10)

    assert [retry.bound(attempt) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_even_the_millionth_wait_is_bounded():
    assert Retry(times=10**6, first=1, cap=60).bound(10**6) == 60


def test_attempts_are_the_first_one_and_the_retries():
    assert Retry(times=5).attempts == 6
    assert Retry(times=0).attempts == 1


def test_the_longest_total_is_known_beforehand():
    assert Retry(times=3, first=1.0).longest == timedelta(seconds=1 + 2 + 4)
    assert Retry(times=5, first=10, cap=30).longest == timedelta(seconds=10 + 20 + 30 + 30 + 30)
    assert Retry(times=0).longest == timedelta(0)


@given(
    times=st.integers(min_value=1, max_value=50),
    first=st.floats(min_value=0.001, max_value=100),
    factor=st.floats(min_value=1, max_value=1000),
    attempt=st.integers(min_value=1, max_value=50),
)
def test_a_wait_lies_between_nothing_and_its_bound(times, first, factor, attempt):
    retry = Retry(times=times, first=first, cap=first * factor)

    wait = retry.wait(attempt, GatewayDown())

    if attempt > times:
        assert wait is None
    else:
        assert wait is not None
        assert 0 <= wait <= retry.bound(attempt) <= retry.cap


def test_jitter_is_full_so_that_events_which_failed_together_do_not_come_back_together():
    retry = Retry(times=1, first=100, cap=100)

    waits = [retry.wait(1, GatewayDown()) for _ in range(2000)]

    assert min(waits) < 5
    assert max(waits) > 95
    assert statistics.mean(waits) == pytest.approx(50, abs=5)


def test_the_last_attempt_is_not_followed_by_another():
    retry = Retry(times=2)

    assert retry.wait(2, GatewayDown()) is not None
    assert retry.wait(3, GatewayDown()) is None
    assert Retry(times=0).wait(1, GatewayDown()) is None


def test_an_error_that_is_never_retried_is_not_and_neither_are_its_subclasses():
    retry = Retry(never=(CardRefused,))

    assert retry.wait(1, CardRefused()) is None
    assert retry.wait(1, CardStolen()) is None
    assert retry.wait(1, GatewayDown()) is not None


def test_with_only_every_other_error_is_not_retried():
    retry = Retry(only=(GatewayDown,))

    assert retry.wait(1, GatewayDown()) is not None
    assert retry.wait(1, CardRefused()) is None


def test_never_decides_where_both_name_an_error():
    retry = Retry(only=(CardRefused,), never=(CardStolen,))

    assert retry.covers(CardRefused())
    assert not retry.covers(CardStolen())


def test_a_permanent_failure_is_not_retried_whatever_the_policy_says():
    assert Retry(only=(PermanentFailure,)).wait(1, PermanentFailure("gone")) is None


def test_retry_later_names_its_own_wait_and_uses_up_an_attempt():
    retry = Retry(times=1, first=1, cap=1, only=(GatewayDown,))

    assert retry.wait(1, RetryLater(30)) == 30
    assert retry.wait(2, RetryLater(30)) is None


def test_retry_later_says_why():
    assert str(RetryLater(2.5)) == "asked to be called again in 2.5 s"
    assert str(RetryLater(1, "kitchen busy")) == "kitchen busy"


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_retry_later_takes_a_time_that_comes(seconds):
    with pytest.raises(ValueError, match=rf"RetryLater\({seconds}\): a number of seconds, from 0"):
        RetryLater(seconds)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"times": -1}, r"Retry\(times=-1\): a number from 0"),
        ({"times": "5"}, r"Retry\(times='5'\)"),
        ({"times": 2.5}, r"Retry\(times=2.5\)"),
        ({"first": 0}, r"Retry\(first=0, cap=60.0\): both are seconds, first above 0"),
        ({"first": -1}, r"first=-1"),
        ({"first": 10, "cap": 5}, r"first=10, cap=5.*cap at least first"),
        ({"first": "1"}, r"first='1'"),
        ({"first": timedelta(seconds=1)}, r"first=datetime.timedelta"),
        ({"cap": None}, r"cap=None"),
        ({"first": math.nan}, r"first=nan"),
        ({"never": CardRefused}, r"never=.*a tuple of exception classes, like never=\(CardRefused,\)"),
        ({"only": ["GatewayDown"]}, r"only=\['GatewayDown'\]"),
        ({"never": (CardRefused("x"),)}, r"never="),
    ],
)
def test_a_policy_that_cannot_work_is_refused_with_its_values(options, said):
    with pytest.raises(DeclarationError, match=said):
        Retry(**options)
