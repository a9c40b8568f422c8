"""What users write is checked by their type checker as it is, without pydantic's plugin."""

import subprocess
import sys
from pathlib import Path

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
    with recorder(app) as told:
        app.publish(OrderPlaced(customer_id="alice"))
    print(told.announced(OrderPlaced).one().customer_id)
"""


def checked(program: str, directory: Path) -> str:
    """What mypy says of it, in its strictest form and with no settings of ours."""
    path = directory / "user.py"
    path.write_text(program)
    options = ["--strict", "--config-file=", "--cache-dir", str(directory / "cache")]
    command = [sys.executable, "-m", "mypy", *options, path.name]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=110).stdout


def test_a_program_that_is_right_is_found_right(tmp_path: Path):
    assert checked(USER, tmp_path) == "Success: no issues found in 1 source file\n"


def test_a_program_that_is_wrong_is_found_wrong(tmp_path: Path):
    wrong = USER.replace('customer_id="alice"', "customer=7").replace("charged.amount_cents", "charged.amount")

    said = checked(wrong, tmp_path)

    assert 'Unexpected keyword argument "customer"' in said
    assert 'has no attribute "amount"' in said
