"""Awards points for what was paid."""

from choreo import Context
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import PaymentCharged, PointsAwarded

app = service("loyalty")


@app.on(PaymentCharged)
def award_points(charged: PaymentCharged, context: Context) -> PointsAwarded:
    book.work(context, charged.meta)
    return PointsAwarded(number=charged.number)
