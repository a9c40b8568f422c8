"""
Each defence of choreo, and what it is there for: the scenario that must turn red once it is switched off.

`test_defences.py` checks it and prints the table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import crashes, scenarios
from tests.chaos.scenarios import Scenario


@dataclass(frozen=True)
class Defence:
    """One line of the table."""

    name: str
    #: What is done in its place while it is switched off.
    instead: str
    broker: str
    scenario: Scenario
    #: Which kinds of findings are expected: one of them at least.
    sees: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Further arguments of the scenario.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}, {self.broker}"


def _off(name: str) -> dict[str, str]:
    return {"CHAOS_SABOTAGE": name}


#: Kombu's own transport, told to be as patient as choreo's is here.
_STOCK = {
    "CHAOS_TRANSPORT": "redis",
    "CHAOS_TRANSPORT_OPTIONS": json.dumps(
        {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1, "socket_timeout": 3}
    ),
}
_CRASHES = {"handler": "payment.charge_customer", "pool": "prefork", "orders": crashes.ORDERS}
_JOIN_CRASHES = {"handler": "driver.assign_driver", "pool": "prefork", "orders": crashes.ORDERS}


def _crashing(name: str, instead: str, broker: str = "redis", **options: Any) -> Defence:
    options = options or _CRASHES
    environment = crashes.success(options["handler"]) | _off(name)
    return Defence(name, instead, broker, scenarios.crash_points, ("lost",), environment, options)


DEFENCES = [
    Defence("the Redis transport", "kombu's own", "redis apart", scenarios.neighbours, ("lost", "foreign"), _STOCK),
    Defence(
        "record in flight",
        "what was taken is in memory only",
        "redis",
        scenarios.neighbours,
        ("lost",),
        _off("record in flight"),
    ),
    _crashing("late ack", "acked before the handler runs"),
    _crashing("late ack", "acked before the handler runs", "rabbitmq"),
    Defence(
        "publisher confirms",
        "what was written to the socket counts as published",
        "rabbitmq",
        scenarios.one_kind,
        ("lost",),
        _off("publisher confirms"),
        {"name": "swallow commands", "times": 3},
    ),
    Defence(
        "inbox", "every delivery runs the handler", "redis", scenarios.duplicates, ("repeated", "split"), _off("inbox")
    ),
    Defence(
        "lease",
        "nobody asks whether another is at it",
        "redis",
        scenarios.duplicates,
        ("repeated", "split"),
        _off("lease"),
    ),
    Defence(
        "fencing token",
        "whoever comes to the commit commits",
        "redis",
        scenarios.zombies,
        ("split",),
        _off("fencing token"),
        {"orders": 60},
    ),
    _crashing("busy copies wait", "a copy that meets a busy unit is acked"),
    _crashing("atomic commit", "first the inbox is marked, then the events are recorded"),
    _crashing("atomic commit", "first the inbox is marked, then the events are recorded", "rabbitmq"),
    _crashing("relay of the outbox", "who committed sends, or nobody does", "rabbitmq"),
    _crashing("a join's seen parts count", "a part that was seen before is dropped", **_JOIN_CRASHES),
]
