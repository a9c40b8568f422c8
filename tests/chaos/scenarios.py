"""
The scenarios: which faults happen to whom, and what has to be true afterwards besides the ledger.

Each is run by a test as it is, and once more for each defence that it has to miss when it is switched off.
"""

import time
from collections.abc import Callable, Sequence
from random import Random

import redis

from choreo.local import EmbeddedServer
from tests.chaos import crashes
from tests.chaos.faults import FAULTS, Fault, replay
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


def duplicates(fleet: Fleet, *, seed: int, orders: int, store_url: str, slowness: float = 3) -> Report:
    """Every seventh event is published ten times, and no process dies: every handler runs once."""
    fleet.slow_down(slowness)
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
    fleet: Fleet,
    handler: str,
    pool: str,
    *,
    seed: int,
    store_url: str,
    orders: int = crashes.ORDERS,
    title: str = "crash points",
    faults: Sequence[Fault] = (),
) -> Report:
    """
    A worker dies at each planned point of a delivery's life.

    The fleet's environment comes from `crashes.success`: in the first delivery, and in the first and the second.
    """
    fleet.start(handler.partition(".")[0], pool=pool)
    report = storm(fleet, f"{title} of {handler}, {pool}", seed=seed, orders=orders, faults=faults, store_url=store_url)
    # In the fused store, committing is publishing.
    points = crashes.points_of(fleet.environment) - ({"after publish"} if fleet.is_fused else set())
    too_few = [f"not tried: {point}" for point in sorted(points) if not report.ledger.crashes[point]]
    if too_few:
        raise LedgerError(too_few, report)
    return report


def mishaps(
    fleet: Fleet, handler: str, pool: str, *, seed: int, store_url: str, orders: int = crashes.MISHAPS
) -> Report:
    """
    A worker dies while an attempt fails, something becomes a dead letter, a join waits, is cancelled or runs out of
    time; and dead letters are replayed.

    The fleet's environment comes from `crashes.mishaps`.
    """
    letters = crashes.letters_of(fleet.environment)
    return crash_points(
        fleet,
        handler,
        pool,
        seed=seed,
        store_url=store_url,
        orders=orders,
        title="mishaps",
        faults=[replay(letters)] if letters else [],
    )


def poison(fleet: Fleet, pool: str, *, seed: int, store_url: str, orders: int = 5) -> Report:
    """
    One order kills the worker that charges it as often as is allowed, and must be a dead letter then.

    Replayed, it does no harm any more. The fleet's environment comes from `crashes.poison`.
    """
    return crash_points(
        fleet,
        crashes.POISONED,
        pool,
        seed=seed,
        store_url=store_url,
        orders=orders,
        title="poison",
        faults=[replay(1, "poison")],
    )


def long_handlers(fleet: Fleet, *, seed: int, store_url: str, orders: int = 7) -> Report:
    """
    Handlers run for longer than their lease, while copies of their events wait: the lease is renewed.

    The fleet's environment comes from `SHORT_LEASE`.
    """
    # The last order is the one that has copies: nothing waits behind it.
    return duplicates(fleet, seed=seed, orders=orders, store_url=store_url, slowness=150)


#: Much less than three seconds, which is how long it takes to charge a card then.
SHORT_LEASE = {"CHAOS_LEASE": "1"}


def relays(fleet: Fleet, *, seed: int, orders: int, store_url: str) -> Report:
    """Three workers look into one schedule while the broker is slow: what is due is sent by one of them, once."""
    for number in (1, 2, 3):
        fleet.start("payment", pool="solo", number=number)
    faults = [FAULTS["stall"]] * 8
    report = storm(fleet, "relays", seed=seed, orders=orders, faults=faults, per_second=15, store_url=store_url)
    handler = "payment.charge_customer"
    again = []
    for order in report.ledger.orders.values():
        attempts = 2 if int(order.subject.partition("-")[2]) % 11 == 10 else 1
        if (count := report.ledger.deliveries[handler, order.event]) > attempts:
            again.append(f"repeated: {handler} was handed {order.subject} {count} times for {attempts} attempt(s)")
    if again:
        raise LedgerError(again, report)
    return report


def restarts(
    fleet: Fleet, kill: Callable[[], None], start: Callable[[], None], *, seed: int, orders: int, store_url: str
) -> Report:
    """`kill -9` of the broker, which comes back with what it had confirmed."""

    def kill_server(fleet: Fleet, random: Random) -> str:
        kill()
        time.sleep(random.uniform(0.0, 2.0))
        start()
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


def restart(server: EmbeddedServer) -> None:
    """Start a persistent server again."""
    server.restart()
    always_write(server)


def always_write(server: EmbeddedServer) -> None:
    """Make a persistent server write to disk before it answers; otherwise a kill may cost what it confirmed last."""
    redis.Redis.from_url(server.url).config_set("appendfsync", "always")
