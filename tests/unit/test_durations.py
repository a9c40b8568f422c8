"""Times to wait: one that cannot work is refused where it is written, and one that is stored already can be shown."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from click.testing import CliRunner

from choreo import Retry, RetryLater, Terms
from choreo.cli import choreo
from choreo.declare.delay import Delay
from choreo.durations import LONGEST, is_wait, moment_of
from choreo.errors import DeclarationError
from choreo.events.message import Message
from choreo.store import DELAYED, Arrival, Claim, Scheduled
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged
from tests.unit.stage import Stage, service

NUMBERS = [-1, -0.001, float("nan"), float("inf"), float("-inf"), 1e12, 10**400, True, "60", [60]]
TIMES = [timedelta.max, timedelta.min, timedelta(seconds=-1), LONGEST + timedelta(seconds=1)]


@pytest.mark.parametrize("value", [*NUMBERS, *TIMES, None], ids=repr)
def test_a_time_that_cannot_be_waited_for_is_none(value):
    assert not is_wait(value)


@pytest.mark.parametrize("value", [0, 0.5, 60, timedelta(0), timedelta(days=30), LONGEST], ids=repr)
def test_a_time_that_can_be_waited_for_is_one(value):
    assert is_wait(value)
    assert is_wait(value, above=0) == bool(value)


@pytest.mark.parametrize("value", [*NUMBERS, *TIMES], ids=repr)
def test_a_delay_that_cannot_work_is_refused_with_its_value(value):
    with pytest.raises(DeclarationError, match=r"delay=.* is not a time to wait, up to 36500 days"):
        Delay(after=value)


@pytest.mark.parametrize(
    "at", [datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))], ids=str
)
def test_a_moment_that_is_too_far_away_is_refused(at):
    with pytest.raises(DeclarationError, match="is more than 36500 days away"):
        Delay(at=at)


@pytest.mark.parametrize(
    "at", [datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))], ids=str
)
def test_a_moment_that_has_passed_long_ago_is_now(at):
    stage = Stage(service("payment"))

    stage.app.publish(OrderPlaced(customer_id="alice"), at=at)
    stage.pass_time(0)

    assert stage.types == ["order.placed"]


@pytest.mark.parametrize("within", [*TIMES, timedelta(0), 60, None, float("nan")], ids=repr)
def test_a_join_that_would_wait_for_ever_is_refused(within):
    with pytest.raises(DeclarationError, match=r"within=.* is not a time to wait, above 0 and up to 36500 days"):

        @service("driver").join(OrderConfirmed, PaymentCharged, within=within)
        def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...


@pytest.mark.parametrize("value", [*NUMBERS, *TIMES, timedelta(seconds=5), 0], ids=repr)
def test_a_retry_that_would_wait_for_ever_is_refused(value):
    with pytest.raises(DeclarationError, match=r"both are seconds.*up to 36500 days"):
        Retry(first=1.0, cap=value)
    with pytest.raises(DeclarationError, match="both are seconds"):
        Retry(first=value, cap=60.0)


@pytest.mark.parametrize("times", [-1, 1_000_001, 10**9, 2.0, True, float("nan")])
def test_a_number_of_retries_that_no_message_can_hold_is_refused(times):
    with pytest.raises(DeclarationError, match="a number from 0"):
        Retry(times=times)


def test_the_longest_possible_retry_can_be_shown():
    assert Retry(times=1_000_000, first=1.0, cap=LONGEST.total_seconds()).longest == timedelta.max
    assert Retry(times=1_000_000, first=1.0, cap=60.0).longest == timedelta(seconds=63 + 60 * (1_000_000 - 6))
    assert Retry(times=0).longest == timedelta(0)


@pytest.mark.parametrize("seconds", [*NUMBERS, *TIMES], ids=repr)
def test_a_handler_that_asks_for_a_retry_in_a_time_that_is_none_is_told(seconds):
    with pytest.raises(ValueError, match=r"RetryLater\(.*a number of seconds, from 0 to"):
        RetryLater(seconds)


def test_a_handler_can_ask_for_a_retry_after_a_timedelta():
    assert RetryLater(timedelta(minutes=5)).seconds == 300


@pytest.mark.parametrize("name", ["lease", "retention"])
@pytest.mark.parametrize("value", [*TIMES, timedelta(0), 60], ids=repr)
def test_terms_that_overflow_the_store_are_refused(name, value):
    with pytest.raises(DeclarationError, match="a time up to 36500 days"):
        Terms(**{name: value})


@pytest.mark.parametrize("passed", [timedelta.max, timedelta(days=10**6)], ids=str)
def test_a_stage_does_not_leave_the_calendar(passed):
    with pytest.raises(ValueError, match="36500 days at most"):
        Stage(service("payment")).advance(passed)


@pytest.mark.parametrize("seconds", [1e11, 1e12, 1e300, float("inf"), -1e12, float("nan")])
def test_every_stored_time_is_a_moment(seconds):
    assert moment_of(seconds) in (datetime.min.replace(tzinfo=UTC), moment_of(1e300), moment_of(1e11))


@pytest.mark.parametrize("seconds", [1e10, 1e12, 1e17, float("inf")])
@pytest.mark.parametrize(
    "command",
    [["schedule"], ["schedule", "--json"], ["joins", "list"], ["joins", "show", "K"], ["joins", "list", "--json"]],
)
def test_tables_show_whatever_is_stored(monkeypatch, seconds, command):
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    stage = Stage(app)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    stage.store.schedule(DELAYED, Scheduled("event:1", Message("", "q", b"{}"), seconds))
    needs = {"order.confirmed": None, "payment.charged": None}
    text = '["id","s","K","2030-01-01T00:00:00+00:00","c",null,1,{}]'
    arrival = Arrival("order.confirmed", "order.confirmed", text, needs, 2, seconds)
    stage.store.arrive(Claim("driver.assign", "join:K", "t"), arrival)

    result = CliRunner().invoke(choreo, command)

    assert result.exit_code == 0, result.output
    assert result.exception is None
    if "--json" not in command:
        assert ("9999-12-31" if seconds > 1e11 else "2286-") in result.output


def test_a_negative_limit_is_refused(monkeypatch):
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: service("driver"))

    result = CliRunner().invoke(choreo, ["joins", "list", "--limit", "-1"])

    assert result.exit_code == 2
    assert "--limit" in result.output
