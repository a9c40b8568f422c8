"""What users write is checked by their type checker as it is, without pydantic's plugin."""

import re
import subprocess
import sys

import pytest

from tests.waiting import DEADLINE

USER = """
from choreo import Context, Event, Service
from choreo.testing import context, recorder, stage

app = Service("payment")


class OrderPlaced(Event):
    customer_id: str
    total_cents: int = 0


class PaymentCharged(Event, type="payment.charged", version=2):
    amount_cents: int


@app.on(OrderPlaced)
def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
    return PaymentCharged(amount_cents=order.total_cents).about(order.meta.subject)


@app.join(OrderPlaced, PaymentCharged)
def ship(order: OrderPlaced, charged: PaymentCharged) -> None:
    print(order.meta.subject, charged.amount_cents)


app.publish(OrderPlaced(customer_id="alice"), subject="ORD-1", delay=5)


def test_an_order_is_charged() -> None:
    platform = stage(app)
    platform.publish(OrderPlaced(customer_id="alice"), subject="ORD-1", delay=5).cancel()
    print(platform.publish(OrderPlaced(customer_id="alice"), subject="ORD-1").correlation_id)
    platform.advance(minutes=5)
    [charged] = platform.announced(PaymentCharged, subject="ORD-1")
    assert charged.amount_cents == charge(OrderPlaced(customer_id="alice"), context()).amount_cents
    with recorder(app) as recorded:
        app.publish(OrderPlaced(customer_id="alice"))
    print(recorded.announced(OrderPlaced).one().customer_id)
"""


WRONG = USER.replace('customer_id="alice"', "customer=7").replace("charged.amount_cents", "charged.amount")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of mypy in its strictest form, with no settings of ours. One run, because it reads pydantic anew."""
    directory = tmp_path_factory.mktemp("typed")
    (directory / "right.py").write_text(USER)
    (directory / "wrong.py").write_text(WRONG)
    options = ["--strict", "--config-file=", "--cache-dir", str(directory / "cache")]
    command = [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"]
    outcome = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=4 * DEADLINE)
    return outcome.stdout


def test_a_program_that_is_right_is_found_right(said: str):
    assert "(checked 2 source files)" in said
    assert "right.py" not in said


def test_a_program_that_is_wrong_is_found_wrong(said: str):
    assert re.search(r'wrong\.py:.* Unexpected keyword argument "customer"', said)
    assert re.search(r'wrong\.py:.* has no attribute "amount"', said)
