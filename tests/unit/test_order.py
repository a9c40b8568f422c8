"""The options of a handler about order: what is refused, and what other programs see."""

import pytest

from choreo import DeclarationError, Service
from choreo.declare.description import ServiceDescription
from tests.unit.events import OrderPlaced
from tests.unit.stage import service


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_a_concurrency_is_a_whole_number_from_1(wrong: object) -> None:
    app = service("payment")

    with pytest.raises(DeclarationError, match=f"concurrency={wrong!r} is not a whole number from 1") as error:

        @app.on(OrderPlaced, concurrency=wrong)
        def charge(order: OrderPlaced) -> None: ...

    assert "concurrency=1" in str(error.value)


def test_a_join_takes_no_concurrency_and_says_where_it_belongs() -> None:
    app = service("payment")

    with pytest.raises(DeclarationError, match=r"@app.join\(concurrency=...\).*@app.on\(OrderPlaced, concurrency=1\)"):
        app.join(OrderPlaced, concurrency=1)


def described(app: Service) -> ServiceDescription:
    return ServiceDescription.from_json(app.runtime.describe().to_json())


def test_other_programs_see_the_concurrency_of_a_handler() -> None:
    one, other = service("payment"), service("payment")
    for app, limit in ((one, 2), (other, None)):

        @app.on(OrderPlaced, concurrency=limit)
        def charge(order: OrderPlaced) -> None: ...

    handler, unlimited = described(one).handler("payment.charge"), described(other).handler("payment.charge")

    assert (handler.concurrency, unlimited.concurrency) == (2, 0)
    assert handler.shape != unlimited.shape
