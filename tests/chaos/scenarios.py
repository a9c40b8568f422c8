"""
The scenarios: which faults happen to whom, and what has to be true afterwards besides the ledger.

Each is run by a test as it is, and once more for each defence that it has to miss when it is switched off.
"""

import time
from collections.abc import Callable
from random import Random

import redis

from choreo.local import EmbeddedServer
from tests.chaos import crashes
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import Fleet
from tests.chaos.storm import LedgerError, Report, storm

Scenario = Callable[..., Report]


def everything(
    fleet: Fleet, *, seed: int, orders: int, store_url: str, rounds: int = 1, without: tuple[str, ...] = ()
) -> Report:
    """Orders are placed while whatever can go wrong goes wrong."""
    faults = [fault for name, fault in FAULTS.items() if name not in without] * rounds
    Random(seed).shuffle(faults)
    return storm(
        fleet, "everything", seed=seed, orders=orders, faults=faults, per_second=30, copies=3, store_url=store_url
    )


def one_kind(
    fleet: Fleet, name: str, *, seed: int, orders: int, store_url: str, times: int = 6, per_second: float = 40
) -> Report:
    """One kind of fault, several times in a row."""
    return storm(
        fleet, name, seed=seed, orders=orders, faults=[FAULTS[name]] * times, per_second=per_second, store_url=store_url
    )


def neighbours(fleet: Fleet, *, seed: int, orders: int, store_url: str) -> Report:
    """
    Some services are killed and restarted, others are left alone.

    Those are handed each event once: what goes back to a queue goes back to that one only.
    """
    fleet.targets = ("restaurant", "payment", "driver")
    fleet.slow_down(3)
    names = ("kill worker", "deploy", "kill pool child", "terminate group", "kill worker", "deploy")
    faults = [FAULTS[name] for name in names]
    report = storm(fleet, "neighbours", seed=seed, orders=orders, faults=faults, per_second=25, store_url=store_url)
    # The publisher was left alone as well, so that every order.placed exists once.
    twice = [event for (handler, event), n in report.ledger.deliveries.items() if handler == BYSTANDER and n > 1]
    if twice:
        raise LedgerError([f"foreign: {BYSTANDER} was handed {event} again" for event in twice], report)
    return report


#: Hears nothing but order.placed, and nothing happens to its service.
BYSTANDER = "analytics.count_order"


def duplicates(fleet: Fleet, *, seed: int, orders: int, store_url: str) -> Report:
    """Every seventh event is published ten times, and no process dies: every handler runs once."""
    fleet.slow_down(3)
    report = storm(
        fleet, "duplicates", seed=seed, orders=orders, faults=[], per_second=1e9, copies=10, store_url=store_url
    )
    again = [
        f"repeated: {unit.handler} ran {unit.runs} times for {unit.subject}, though nobody had died"
        for unit in report.ledger.units.values()
        if unit.runs > 1
    ]
    if again:
        raise LedgerError(again, report)
    return report


def zombies(fleet: Fleet, *, seed: int, orders: int, store_url: str) -> Report:
    """A worker is stopped in the middle of its handlers until others have done its work; then it goes on."""
    fleet.targets = ("payment",)
    fleet.slow_down(20)
    return storm(
        fleet,
        "zombies",
        seed=seed,
        orders=orders,
        faults=[FAULTS["freeze"]] * 2,
        per_second=10,
        pause=(0.5, 1.0),
        store_url=store_url,
    )


def crash_points(
    fleet: Fleet, handler: str, pool: str, *, seed: int, store_url: str, orders: int = crashes.ORDERS
) -> Report:
    """
    A worker dies at each named point of a delivery's life, in the first delivery, and in the first and the second.

    The fleet's environment comes from `crashes.plan`.
    """
    fleet.start(handler.partition(".")[0], pool=pool)
    title = f"crash points of {handler}, {pool}"
    report = storm(fleet, title, seed=seed, orders=orders, faults=[], store_url=store_url)
    # Where the store is the broker, committing is publishing.
    points = [point for point in crashes.POINTS if fleet.store_url or point != "after publish"]
    too_few = [f"not tried: {point}" for point in points if not report.ledger.crashes[point]]
    if too_few:
        raise LedgerError(too_few, report)
    return report


def restarts(fleet: Fleet, server: EmbeddedServer, *, seed: int, orders: int, store_url: str) -> Report:
    """`kill -9` of the Redis that is broker and store, which comes back with what it had confirmed."""

    def kill_server(fleet: Fleet, random: Random) -> str:
        server.kill()
        time.sleep(random.uniform(0.0, 2.0))
        server.restart()
        always_write(server)
        return "server"

    return storm(
        fleet,
        "restarts of the broker",
        seed=seed,
        orders=orders,
        faults=[kill_server, FAULTS["kill worker"], kill_server, FAULTS["kill publisher"], kill_server],
        per_second=40,
        pause=(0.5, 2.0),
        store_url=store_url,
    )


def always_write(server: EmbeddedServer) -> None:
    """Make a persistent server write to disk before it answers; otherwise a kill may cost what it confirmed last."""
    redis.Redis.from_url(server.url).config_set("appendfsync", "always")
