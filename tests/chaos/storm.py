"""Running orders through a fleet while things go wrong, and judging what came of it."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.chaos.faults import Fault, Weather, name_of
from tests.chaos.fleet import READY_SECONDS, SERVICES, Fleet
from tests.chaos.ledger import Ledger
from tests.chaos.remains import remains

#: So many times in a row nothing may be left, a fifth of a second apart, until all is at rest.
RESTING_LOOKS = 5


class LedgerError(AssertionError):
    """Something was lost, doubled, mixed up or left behind. `findings` lists it."""

    def __init__(self, findings: list[str], report: "Report") -> None:
        self.findings = findings
        self.report = report
        shown = "\n".join(f"  {finding}" for finding in findings[:40])
        more = f"\n  ... and {len(findings) - 40} more" if len(findings) > 40 else ""
        super().__init__(f"{len(findings)} finding(s):\n{shown}{more}\n{report}")

    @property
    def kinds(self) -> Counter[str]:
        """How many findings of which kind: lost, doubled, split, foreign, wrong, repeated, left, stuck."""
        return Counter(finding.partition(":")[0] for finding in self.findings)

    @property
    def summary(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())


@dataclass
class Report:
    """The figures of one run."""

    title: str
    seed: int
    ledger: Ledger
    seconds: float = 0.0
    #: From the last fault until the last effect.
    recovery: float = 0.0
    happened: list[str] = field(default_factory=list)
    lost: int = 0

    def __str__(self) -> str:
        ledger = self.ledger
        faults = Counter(name.partition(" (")[0] for name in self.happened)
        faults.update({f"crash {point}": count for point, count in ledger.crashes.items()})
        rows = {
            "orders": f"{len(ledger.orders)} tried, {ledger.confirmed} confirmed, "
            f"{sum(order.raised for order in ledger.orders.values())} refused",
            "faults": ", ".join(f"{count} {name}" for name, count in sorted(faults.items())) or "none",
            "handled": f"{len(ledger.units)} units in {ledger.runs} runs, {ledger.repeated_runs} of them repeated",
            "deliveries": f"{sum(ledger.deliveries.values())}, {ledger.repeated_deliveries} of them repeated, "
            f"{ledger.shortcuts} by the shortcut",
            "lost": str(self.lost),
            "slowest order": f"{ledger.longest_order:.1f} s; longest silence {ledger.longest_silence:.1f} s; "
            f"at rest {self.recovery:.1f} s after the last fault; {self.seconds:.0f} s in all",
        }
        lines = [f"{name:>14}  {text}" for name, text in rows.items()]
        return "\n".join([f"{self.title}, seed {self.seed}", *lines])


def storm(
    fleet: Fleet,
    title: str,
    *,
    seed: int,
    orders: int,
    faults: Sequence[Fault],
    per_second: float = 1e9,
    copies: int = 1,
    pause: tuple[float, float] = (0.1, 0.8),
    store_url: str,
    services: tuple[str, ...] = SERVICES,
) -> Report:
    """
    Place orders while faults happen, wait until everything is at rest, and check the ledger.

    Raises `LedgerError` when the ledger does not add up.
    """
    with fleet.explained():
        ledger = Ledger(fleet.books)
        report = Report(title, seed, ledger)
        print(f"\n{title}: {orders} orders, seed {seed}: {', '.join(map(name_of, faults)) or 'no faults'}")
        fleet.start(*(service for service in services if f"{service}-1" not in fleet.workers))
        fleet.wait_ready()

        begun = time.monotonic()
        weather = Weather(fleet, Random(seed), faults, pause)
        fleet.publish(1, orders, per_second, copies)
        _wait_for_orders(fleet, ledger)
        weather.start()
        _publish_all(fleet, ledger, weather, orders, per_second, copies)
        _rest(fleet, ledger, weather, store_url)

        report.happened = weather.happened
        report.recovery = max(0.0, max((o.done_at for o in ledger.orders.values()), default=0.0) - weather.over_at)
        report.seconds = time.monotonic() - begun
        report.lost = len(ledger.missing())
        if weather.error is not None:
            raise weather.error
        fleet.stop(*fleet.workers.values())
        ledger.read()
        findings = ledger.violations() + fleet.findings
        findings += [f"left: {what}" for what in remains(fleet.broker_url, store_url, fleet.namespace)]
        if findings:
            raise LedgerError(findings, report)
        print(report)
        return report


def _wait_for_orders(fleet: Fleet, ledger: Ledger) -> None:
    """Faults that come before the first order prove nothing."""
    give_up_at = time.monotonic() + READY_SECONDS
    while not ledger.confirmed:
        assert time.monotonic() < give_up_at, "no order could be placed"
        time.sleep(0.05)
        ledger.read()


def _publish_all(fleet: Fleet, ledger: Ledger, weather: Weather, orders: int, rate: float, copies: int) -> None:
    """Wait for the publisher, and start it again from the next order when it was killed."""
    give_up_at = time.monotonic() + 60 + 2 * orders / min(rate, 50.0)
    while True:
        assert time.monotonic() < give_up_at, "the publisher hangs"
        fleet.look_after()
        assert fleet.publisher is not None
        if fleet.publisher.poll() is None:
            time.sleep(0.05)
            continue
        fleet.wait_published()
        ledger.read()
        last = max((int(subject.partition("-")[2]) for subject in ledger.orders), default=0)
        if ledger.finished or last >= orders:
            return
        fleet.publish(last + 1, orders, rate, copies)


def _rest(fleet: Fleet, ledger: Ledger, weather: Weather, store_url: str) -> None:
    """Wait until all is done and nothing is left; give up once nothing has moved for a while."""
    while weather.is_alive():
        fleet.look_after()
        time.sleep(0.05)
    known, begun, moved_at = 0, time.monotonic(), time.monotonic()
    looks = 0
    while looks < RESTING_LOOKS:
        fleet.look_after()
        ledger.read()
        is_over = not (ledger.missing() or remains(fleet.broker_url, store_url, fleet.namespace))
        # RabbitMQ does not tell of messages that a worker has: second copies of events that are done, say.
        looks = looks + 1 if is_over else 0
        now = time.monotonic()
        if ledger.lines > known:
            known, moved_at = ledger.lines, now
        # Something may also go round for ever.
        if now > moved_at + fleet.patience or now > begun + 10 * fleet.patience:
            return
        time.sleep(0.2)


def repeat_command(seed: int, orders: int) -> str:
    """The command that runs the current test again with the same faults."""
    # It ends with " (call)", and an id may hold spaces as well.
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return f"CHAOS_SEED={seed} CHAOS_ORDERS={orders} pytest -s '{test}'"
