"""Awards points for what was paid, and waits for a rating that nobody ever gives: the join that runs out of time."""

from datetime import timedelta

from choreo import Context
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import OrderPlaced, OrderRated, PaymentCharged, PointsAwarded, RatingMissed

app = service("loyalty")


@app.on(PaymentCharged)
def award_points(charged: PaymentCharged, context: Context) -> PointsAwarded:
    book.work(context, charged.meta)
    return PointsAwarded(number=charged.number)


def do_without(placed: OrderPlaced | None, rated: OrderRated | None, context: Context) -> RatingMissed:
    assert placed is not None
    book.work(context, placed.meta)
    return RatingMissed(number=placed.number)


@app.join(OrderPlaced, OrderRated, within=timedelta(seconds=0.5), on_timeout=do_without)
def thank_customer(placed: OrderPlaced, rated: OrderRated, context: Context) -> None:
    book.work(context, placed.meta, rated.meta)
