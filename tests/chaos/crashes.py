"""Who dies where: one order per crash point, and one more per crash point whose second delivery is hit as well."""

from tests.chaos.services.crash import POINTS

#: How many orders it takes.
ORDERS = 20


def plan(handler: str) -> dict[str, str]:
    """The environment that makes the workers of this handler die."""
    # Orders that flow to their end: neither rejected nor refused, and charged at the first attempt.
    smooth = (number for number in range(1, ORDERS + 1) if number % 10 != 9 and number % 13 != 12 and number % 11 != 10)
    deaths = [(point, times) for times in (1, 2) for point in POINTS]
    entries = [f"{number}={point}:{times}" for number, (point, times) in zip(smooth, deaths, strict=False)]
    assert len(entries) == len(deaths), "more orders are needed"
    return {"CHAOS_CRASH": f"{handler}|{','.join(entries)}"}
