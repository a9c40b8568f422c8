"""Counts the effects of every service in its own database."""

from collections import Counter

from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.ledger import Ledger
from handlers.story.stage import Stage, StoryError


def rows() -> list[tuple[str, str]]:
    """Return one row for each service: its name and its counts."""
    confirmed = count(restaurant.ledger, "answers WHERE confirmed")
    rejected = count(restaurant.ledger, "answers WHERE NOT confirmed")
    announced = count(order.ledger, "orders WHERE announced")
    points = sum(row["points"] for row in loyalty.ledger.rows("SELECT points FROM points"))
    facts = analytics.counts()
    messages = _some(count(notification.ledger, "messages"), "message")
    alarms = _some(count(notification.ledger, "alarms"), "alarm")
    return [
        ("order", f"{_some(count(order.ledger, 'orders'), 'order')} accepted, {announced} announced"),
        ("restaurant", f"{confirmed} confirmed, {rejected} rejected"),
        ("payment", f"{count(payment.ledger, 'charges')} charged, {count(payment.ledger, 'refunds')} refunded"),
        ("driver", f"{_some(count(driver.ledger, 'trips'), 'driver')} sent"),
        ("notification", f"{messages} sent, {alarms} for the operator"),
        ("loyalty", f"{_some(points, 'point')} held"),
        ("analytics", f"{_some(heard_by_analytics(), 'event')} heard, of {_some(len(facts), 'type')}"),
    ]


def check(stage: Stage) -> None:
    """Raise `StoryError` unless every effect happened exactly once for every order."""
    ids = {placed.id for placed in stage.orders}
    confirmed = of_each(restaurant.ledger, "answers WHERE confirmed")
    rejected = of_each(restaurant.ledger, "answers WHERE NOT confirmed")
    once = {
        "is accepted": (of_each(order.ledger, "orders", "id"), ids),
        "has an answer": (confirmed + rejected, ids),
        "is charged": (of_each(payment.ledger, "charges"), ids),
        "is refunded if it was rejected": (of_each(payment.ledger, "refunds"), set(rejected)),
        "has a driver if it was confirmed": (of_each(driver.ledger, "trips"), set(confirmed)),
        "has a message": (of_each(notification.ledger, "messages"), ids),
        "earns points": (of_each(loyalty.ledger, "points WHERE points > 0"), ids),
    }
    for what, (counted, expected) in once.items():
        if counted != Counter(expected):
            raise StoryError(f"Not every order {what} exactly once: {dict(counted)} instead of {sorted(expected)}.")


def count(ledger: Ledger, table: str) -> int:
    """Return the number of rows. ``table`` may end in a WHERE clause."""
    return int(ledger.rows(f"SELECT count(*) AS times FROM {table}")[0]["times"])


def of_each(ledger: Ledger, table: str, column: str = "order_id") -> Counter[str]:
    """Return the number of rows of each order. ``table`` may end in a WHERE clause."""
    return Counter(row[column] for row in ledger.rows(f"SELECT {column} FROM {table}"))


def heard_by_analytics() -> int:
    """Return the number of events that analytics has counted."""
    return sum(analytics.counts().values())


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
