"""
The work: the events and the reactions of each service, the same for every side.

Standard library only, except for the Redis client of the hand-written join.

::

    order.viewed    -> restaurant, payment, driver, notification         the fan-out: four handlers of one event
    order.placed    -> restaurant -> order.confirmed ─┐
                    -> payment ────> payment.charged ─┴─> driver -> driver.assigned -> notification
    item.packed + label.printed -> driver                                a join alone
    order.archived  -> one bound queue without a consumer                for measuring the publisher alone
"""

from collections.abc import Callable
from typing import Any

from bench.marks import mark, pass_gate
from bench.setting import current

SERVICES = ("restaurant", "payment", "driver", "notification")

#: Event type -> the services that react.
HEARS = {
    "order.viewed": SERVICES,
    "order.placed": ("restaurant", "payment"),
    "order.confirmed": ("driver",),
    "payment.charged": ("driver",),
    "driver.assigned": ("notification",),
    "item.packed": ("driver",),
    "label.printed": ("driver",),
}
#: Event type -> the announcing service, for peers that subscribe to a source.
SOURCES = {"order.confirmed": "restaurant", "payment.charged": "payment", "driver.assigned": "driver"}
#: The event types that are parts of a join.
PARTS = ("order.confirmed", "payment.charged", "item.packed", "label.printed")
#: A queue with no consumer that is bound to this type.
ARCHIVE_QUEUE, ARCHIVE_TYPE = "bench.archive", "order.archived"

#: The counters, one for each handler.
VIEWED = tuple(f"{service}.view" for service in SERVICES)
FLOW = ("restaurant.confirm", "payment.charge", "driver.assign", "notification.notify")
SHIPPED = "driver.ship"
COUNTERS = (*VIEWED, *FLOW, SHIPPED)

Publish = Callable[[str, dict[str, Any]], Any]

#: A join as users write it by hand: one round trip; the event that completes the join gets 1.
JOIN_LUA = """
if redis.call('HSETNX', KEYS[1], ARGV[1], 1) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('HLEN', KEYS[1]) == tonumber(ARGV[2]) and 1 or 0
"""


def data(number: int) -> dict[str, Any]:
    """Return the data of an event: about 150 bytes of JSON."""
    return {
        "n": number,
        "customer_id": "cust-alice-000017",
        "restaurant_id": "restaurant-pizza-palace",
        "items": ["margherita", "tiramisu"],
        "total_cents": 2500,
        "note": "ring twice",
    }


def event(kind: str, number: int) -> dict[str, Any]:
    """Return an event with metadata, for sides without an envelope of their own."""
    return {
        "id": f"{kind}-{number:08d}",
        "type": kind,
        "source": "orders",
        "subject": f"ORD-{number:08d}",
        "time": "2026-01-01T12:00:00.000000+00:00",
        "data": data(number),
    }


def hears(service: str) -> list[str]:
    """Return the event types that this service reacts to."""
    return [kind for kind, services in HEARS.items() if service in services]


def react(service: str, cause: dict[str, Any], publish: Publish) -> None:
    """Handle an event, on sides with a hand-written join."""
    kind, number = cause["type"], cause["data"]["n"]
    if kind in PARTS and not _arrived(kind, cause["subject"]):
        return
    answer = done(service, kind, number)
    if answer is not None:
        publish(answer, event(answer, number))


def done(service: str, kind: str, number: int) -> str | None:
    """Mark an event, or a complete join, as handled. Returns the type to announce, or None."""
    match kind:
        case "order.viewed":
            pass_gate(SERVICES.index(service))
            mark(f"{service}.view", number)
        case "order.placed":
            mark("restaurant.confirm" if service == "restaurant" else "payment.charge", number)
            return "order.confirmed" if service == "restaurant" else "payment.charged"
        case "order.confirmed" | "payment.charged":
            mark("driver.assign", number)
            return "driver.assigned"
        case "driver.assigned":
            mark("notification.notify", number)
        case _:
            mark(SHIPPED, number)
    return None


def join_key(kind: str, subject: str) -> str:
    """Return the Redis key of a hand-written join."""
    return f"join:{'ship' if kind in ('item.packed', 'label.printed') else 'assign'}:{subject}"


_script: Any = None


def _arrived(kind: str, subject: str) -> bool:
    global _script
    if _script is None:
        import redis

        _script = redis.Redis.from_url(current().redis_url).register_script(JOIN_LUA)
    return bool(_script(keys=[join_key(kind, subject)], args=[kind, 2]))
