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
    #: Whether `make test` has the time for it.
    short: bool = False

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
#: Every seventh of them has nine more copies.
_FEW = {"orders": 14}
_CRASHES = {"handler": "payment.charge_customer", "pool": "prefork", "orders": crashes.ORDERS}
_JOIN_CRASHES = {"handler": "driver.assign_driver", "pool": "prefork", "orders": crashes.ORDERS}


def _crashing(name: str, instead: str, broker: str = "redis", **options: Any) -> Defence:
    options = options or _CRASHES
    environment = crashes.success(options["handler"]) | _off(name)
    return Defence(name, instead, broker, scenarios.crash_points, ("lost",), environment, options)


def _poisonous(name: str, instead: str, broker: str, pool: str) -> Defence:
    environment = crashes.poison() | _off(name)
    return Defence(name, instead, broker, scenarios.poison, ("unburied",), environment, {"pool": pool, "orders": 5})


_MISHAPS = {"handler": "payment.charge_customer", "pool": "prefork", "orders": crashes.MISHAPS}


def _mishaps(name: str, instead: str, broker: str, **more: Any) -> Defence:
    environment = crashes.mishaps(_MISHAPS["handler"], busy=False) | _off(name)
    return Defence(name, instead, broker, scenarios.mishaps, ("lost",), environment, _MISHAPS, **more)


_REPEATS = ("repeated", "split")

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
    Defence(
        "own tag",
        "who acks a copy acks the others' copies as well",
        "redis",
        scenarios.neighbours,
        ("lost",),
        _off("own tag"),
    ),
    Defence(
        "own address",
        "what goes back goes to every queue that is bound to its type",
        "redis apart",
        scenarios.neighbours,
        ("foreign",),
        _off("own address"),
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
    *(
        Defence(
            "inbox",
            "every delivery runs the handler",
            broker,
            scenarios.duplicates,
            _REPEATS,
            # A copy waits for the rest of a lease while another runs, and here every copy runs.
            _off("inbox") | {"CHAOS_LEASE": "0.5"},
            _FEW,
            short=broker == "redis",
        )
        for broker in ("redis", "redis apart")
    ),
    *(
        Defence(
            "lease",
            "nobody asks whether another is at it",
            broker,
            scenarios.duplicates,
            _REPEATS,
            _off("lease"),
            _FEW,
            short=True,
        )
        for broker in ("redis", "redis apart")
    ),
    Defence(
        "lease renewal",
        "a lease ends, however long the handler runs",
        "redis apart",
        scenarios.long_handlers,
        _REPEATS,
        _off("lease renewal") | scenarios.SHORT_LEASE,
        {"orders": 7},
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
    _poisonous("note of a child's", "nobody notes what a dead child was busy with", "redis", "prefork"),
    _poisonous("note of the oldest", "nobody notes what the dead were busy with", "redis", "solo"),
    _poisonous("poison count", "each beginning counts as the first", "redis apart", "prefork"),
    _crashing("busy copies wait", "a copy that meets a busy unit is acked", "redis apart"),
    _crashing("busy copies wait", "a copy that meets a busy unit is acked", **_JOIN_CRASHES),
    _mishaps("retry before the ack", "its worker keeps the next attempt in mind", "redis", short=True),
    _mishaps("retry before the ack", "its worker keeps the next attempt in mind", "redis apart"),
    Defence(
        "hold",
        "what one worker sends is handed to the others as well",
        "redis apart",
        scenarios.relays,
        ("repeated",),
        _off("hold"),
    ),
    _crashing("atomic commit", "first the inbox is marked, then the events are recorded"),
    _crashing("atomic commit", "first the inbox is marked, then the events are recorded", "rabbitmq"),
    _crashing("relay of the outbox", "who committed sends, or nobody does", "rabbitmq"),
    _crashing("relay of the outbox", "who committed sends, or nobody does", "redis apart"),
    _crashing("a join's seen parts count", "a part that was seen before is dropped", **_JOIN_CRASHES),
]
