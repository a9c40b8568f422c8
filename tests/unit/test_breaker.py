"""The declaration of an outage breaker."""

import pytest

from choreo import Breaker, PermanentFailure, Retry, RetryLater
from choreo.errors import DeclarationError


class GatewayDown(Exception):
    pass


class CardRefused(Exception):
    pass


def test_each_wait_for_a_probe_is_twice_as_long_as_the_one_before_up_to_the_cap():
    assert [Breaker(first=0.5, cap=5).wait(probes) for probes in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert Breaker().wait(10**6) == 30


@pytest.mark.parametrize("failures", [1, 0, -3, 2.0, True, None, 10**7])
def test_a_number_of_failures_that_cannot_work_is_named(failures):
    with pytest.raises(DeclarationError, match=rf"failures={failures!r}\): a number from 2"):
        Breaker(failures=failures)


@pytest.mark.parametrize("times", [{"first": 0}, {"first": 5, "cap": 1}, {"cap": float("inf")}, {"first": "1"}])
def test_waits_that_cannot_work_are_named(times):
    with pytest.raises(DeclarationError, match="both are seconds"):
        Breaker(**times)


def test_a_breaker_is_one():
    with pytest.raises(DeclarationError, match=r"Retry\(breaker=True\): write breaker=Breaker\(\)"):
        Retry(breaker=True)


def test_a_handler_that_is_never_called_again_has_no_breaker():
    with pytest.raises(DeclarationError, match="times=0 forbids that"):
        Retry(times=0, breaker=Breaker())


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (GatewayDown(), True),
        (TimeoutError(), True),
        (CardRefused(), False),
        (PermanentFailure("frozen"), False),
        (RetryLater(3600), False),
    ],
)
def test_an_error_counts_if_a_retry_may_mend_it_and_the_handler_does_not_ask_to_wait(error, counts):
    assert Retry(never=(CardRefused,), breaker=Breaker()).is_failure(error) is counts
    assert not Retry(never=(CardRefused,)).is_failure(error)


def test_only_the_errors_that_are_retried_count():
    retry = Retry(only=(GatewayDown,), breaker=Breaker())

    assert retry.is_failure(GatewayDown())
    assert not retry.is_failure(KeyError("total"))


def test_the_failures_of_one_event_are_enough_before_it_becomes_a_dead_letter():
    assert Retry(times=2, breaker=Breaker(failures=5)).opens_at == 3
    assert Retry(times=9, breaker=Breaker(failures=5)).opens_at == 5
