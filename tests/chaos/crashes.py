"""
Who dies where.

`success` takes one order per point of `services/crash.py` that a success passes, and one more whose second delivery is
hit as well. `mishaps` takes the others, and what a join goes through besides its parts.
"""

from collections.abc import Mapping

from tests.chaos.services.crash import BURIED, GROUP_POINTS, POINTS, deaths

#: How many orders `success` takes.
ORDERS = 20
#: How many orders `together` takes.
TOGETHER = 48
#: How many orders `mishaps` takes.
MISHAPS = 40

#: Every eleventh attempt fails here, and orders 10, 21 and 32 are the first.
_PAYMENT = {
    10: "after relay:1",
    21: "before retry:1",
    32: "after retry:1",
    1: "before letter:1",
    2: "after letter:2",
    3: "in replay:1",
}
#: Every tenth order is rejected, which cancels the join: those of orders 9, 19, 29 and 39.
_DRIVER = {
    1: "after wait:1",
    2: "after wait:2",
    3: "before letter:1",
    4: "after letter:1",
    5: "in replay:1",
    9: "after begin:1",
    19: "after handler:1",
    29: "after commit:1",
    39: "before ack:1",
}
#: Every order's join runs out of time here.
_LOYALTY = {
    1: "after wait:1",
    2: "after relay:1",
    3: "after begin:1",
    4: "after handler:1",
    5: "after commit:1",
    6: "before ack:1",
    7: "in replay:1",
}
_BUSY = {8: "after begin:1+after postpone:1"}
#: On a busy machine it takes seconds until Celery has noticed that a child is dead, and the copy comes.
_LONG_LEASE = {"CHAOS_LEASE": "10"}
_MISHAPS = {"payment.charge_customer": _PAYMENT, "driver.assign_driver": _DRIVER, "loyalty.thank_customer": _LOYALTY}


def success(handler: str) -> dict[str, str]:
    """The environment that makes the workers of this handler die while it succeeds."""
    # Orders that flow to their end: neither rejected nor refused, and charged at the first attempt.
    smooth = (number for number in range(1, ORDERS + 1) if number % 10 != 9 and number % 13 != 12 and number % 11 != 10)
    places = [f"{point}:{times}" for times in (1, 2) for point in POINTS]
    planned = dict(zip(smooth, places, strict=False))
    assert len(planned) == len(places), "more orders are needed"
    return _environment(handler, planned)


def together(handler: str, pool: str) -> dict[str, str]:
    """
    The environment that makes the workers of this handler die while several events are handled together.

    Which of them are together is decided by the machine, so that each point is planned for several orders. A pool of
    threads gets each message as soon as it comes, and claims few together.
    """
    points = GROUP_POINTS if pool == "solo" else GROUP_POINTS[1:]
    smooth = (
        number for number in range(1, TOGETHER + 1) if number % 10 != 9 and number % 13 != 12 and number % 11 != 10
    )
    return _environment(handler, {number: f"{points[at % len(points)]}:1" for at, number in enumerate(smooth)})


def mishaps(handler: str, *, busy: bool) -> dict[str, str]:
    """
    The environment that makes the workers of this handler die while something else happens than a success.

    With ``busy`` also where a copy meets a busy unit. It does when a pool child has died and its lease lasts, so that
    nobody may die with the whole worker: while that is started again, leases run out.
    """
    planned = _MISHAPS[handler]
    if not busy:
        return _environment(handler, planned)
    planned = {n: points for n, points in planned.items() if "after relay" not in points} | _BUSY
    return _environment(handler, planned) | _LONG_LEASE


#: Whose worker `poison` kills, and how often it may before its event counts as poison.
POISONED = "payment.charge_customer"
MOST_DELIVERIES = 3


def poison() -> dict[str, str]:
    """The environment in which one order kills as many workers as are allowed."""
    environment = _environment(POISONED, {3: f"after handler:{MOST_DELIVERIES}"})
    return environment | {"CHAOS_MAX_DELIVERIES": str(MOST_DELIVERIES)}


def points_of(environment: Mapping[str, str]) -> set[str]:
    """Every point at which somebody is to die."""
    _, planned = deaths(environment.get("CHAOS_CRASH", ""))
    return {point for points in planned.values() for point in points}


def letters_of(environment: Mapping[str, str]) -> int:
    """How many dead letters the plan leads to."""
    _, planned = deaths(environment.get("CHAOS_CRASH", ""))
    return sum(any(point in BURIED for point in points) for points in planned.values())


def _environment(handler: str, planned: dict[int, str]) -> dict[str, str]:
    return {"CHAOS_CRASH": f"{handler}|{','.join(f'{number}={points}' for number, points in planned.items())}"}
