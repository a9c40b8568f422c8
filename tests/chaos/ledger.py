"""
The ledger: what must have happened to every order, beside what the services wrote down.

Everything that follows from an announced order is known before: who has to handle which events, and which id each event
has, since ids derive from their cause. So the ledger finds not only what is missing, but also what should not exist.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

#: handler -> the events that it may be handed
HEARS = {
    "restaurant.confirm_order": {"order.placed"},
    "payment.charge_customer": {"order.placed"},
    "driver.assign_driver": {
        "order.confirmed_by_restaurant",
        "order.rejected_by_restaurant",
        "payment.charged",
        "payment.failed",
        "choreo.join_expired",
    },
    "notification.tell_customer": {
        "order.confirmed_by_restaurant",
        "order.rejected_by_restaurant",
        "payment.charged",
        "payment.failed",
        "driver.assigned",
    },
    "loyalty.award_points": {"payment.charged"},
    "loyalty.thank_customer": {"order.placed", "order.rated", "choreo.join_expired"},
    "analytics.count_order": {"order.placed"},
    "analytics.count_result": {"driver.assigned", "points.awarded", "rating.missed"},
}
#: Who hears of a new order.
FIRST = ("restaurant.confirm_order", "payment.charge_customer", "analytics.count_order")


@dataclass
class Order:
    """What is known of one order."""

    subject: str
    #: The id of its order.placed, once somebody has seen one.
    event: str = ""
    confirmed: bool = False
    raised: bool = False
    announced_at: float = 0.0
    done_at: float = 0.0


@dataclass
class Unit:
    """One handler's work on one event, or on one join."""

    handler: str
    subject: str
    runs: int = 0
    effects: int = 0
    #: Which events it was run with: id -> type. More than the expected ones in one of the runs is a finding.
    inputs: set[frozenset[tuple[str, str]]] = field(default_factory=set)


class Ledger:
    """Reads the books of all services as they grow."""

    def __init__(self, books: Path) -> None:
        self._books = books
        self._read: Counter[Path] = Counter()
        self.orders: dict[str, Order] = {}
        self.units: dict[str, Unit] = {}
        #: (handler, event id) -> how often a worker received it
        self.deliveries: Counter[tuple[str, str]] = Counter()
        #: How many of them went to their handler by `choreo.fast.shortcut`.
        self.shortcuts = 0
        self.crashes: Counter[str] = Counter()
        self.finished = 0
        #: How many lines were read.
        self.lines = 0
        self._types: dict[str, set[str]] = defaultdict(set)
        self._contents: dict[str, set[str]] = defaultdict(set)
        self._handed: dict[str, set[str]] = defaultdict(set)
        self._last_at = 0.0
        self.longest_silence = 0.0

    def read(self) -> None:
        """Take in what was written since the last time."""
        lines = sorted(self._news(), key=lambda line: line["at"])
        self.lines += len(lines)
        for line in lines:
            self._take(line)

    def _news(self) -> Iterator[dict[str, Any]]:
        for path in self._books.glob("*.jsonl"):
            with path.open("rb") as book:
                book.seek(self._read[path])
                news = book.read()
            # Whole lines only; a write is atomic, but a reader may come in between two pages of it.
            news = news[: news.rfind(b"\n") + 1]
            self._read[path] += len(news)
            yield from map(json.loads, news.splitlines())

    def _take(self, line: dict[str, Any]) -> None:
        kind, subject = line["kind"], line["subject"]
        if kind in ("run", "effect", "delivery"):
            for event, event_type, content in line["events"]:
                self._types[event].add(event_type)
                self._handed[line["handler"]].add(event_type)
                if content:
                    self._contents[event].add(content)
                if event_type == "order.placed":
                    self._order(subject).event = event
        match kind:
            case "delivery":
                self.deliveries[line["handler"], line["events"][0][0]] += 1
                self.shortcuts += line["shortcut"]
            case "run":
                unit = self._unit(line)
                unit.runs += 1
                unit.inputs.add(frozenset((event, event_type) for event, event_type, _ in line["events"]))
            case "effect":
                self._unit(line).effects += 1
                order = self._order(subject)
                order.done_at = max(order.done_at, line["at"])
                self.longest_silence = max(self.longest_silence, line["at"] - (self._last_at or line["at"]))
                self._last_at = max(self._last_at, line["at"])
            case "try":
                self._order(subject).announced_at = line["at"]
            case "confirmed":
                self._order(subject).confirmed = True
                self._order(subject).event = line["event"]
            case "raised":
                self._order(subject).raised = True
            case "crash":
                self.crashes[line["point"]] += 1
            case "finished":
                self.finished += 1

    def _order(self, subject: str) -> Order:
        return self.orders.setdefault(subject, Order(subject))

    def _unit(self, line: dict[str, Any]) -> Unit:
        return self.units.setdefault(line["key"], Unit(line["handler"], line["subject"]))

    # -- what there has to be --------------------------------------------------------------------------------------

    def expected(self) -> dict[str, tuple[str, frozenset[tuple[str, str]]]]:
        """Idempotency key -> the handler and the events that it has to be run with, once and for all."""
        work: dict[str, tuple[str, frozenset[tuple[str, str]]]] = {}
        for order in self.orders.values():
            if order.event and (order.confirmed or self._was_seen(order)):
                for handler, unit, inputs in flow(int(order.subject.partition("-")[2]), order.subject, order.event):
                    work[f"{handler}/{unit}"] = handler, frozenset(inputs)
        return work

    def _was_seen(self, order: Order) -> bool:
        return any(self.deliveries[handler, order.event] for handler in FIRST)

    def missing(self) -> list[str]:
        """The keys of the work that nobody has done yet."""
        return [key for key in self.expected() if key not in self.units or not self.units[key].effects]

    def violations(self) -> list[str]:
        """Everything that is not as it has to be."""
        found: list[str] = []
        expected = self.expected()
        for key, (handler, inputs) in expected.items():
            unit = self.units.get(key)
            if unit is None or not unit.effects:
                names = ", ".join(sorted(event_type for _, event_type in inputs))
                found.append(f"lost: {handler} never handled {names} (key {key})")
            elif unit.inputs != {inputs}:
                found.append(f"wrong: {handler} was run with {sorted(map(sorted, unit.inputs))}, not {sorted(inputs)}")
        if self.units and not self.deliveries:
            found.append("blind: no service writes down what it was handed")
        for key, unit in self.units.items():
            if key not in expected:
                found.append(f"doubled: {unit.handler} did something for {unit.subject} that nobody caused (key {key})")
        for event, contents in self._contents.items():
            if len(contents) > 1:
                found.append(f"split: {event} says different things to different readers: {sorted(contents)}")
        for event, types in self._types.items():
            if len(types) > 1:
                found.append(f"split: {event} is {' and '.join(sorted(types))}")
        for handler, types in self._handed.items():
            if foreign := types - HEARS.get(handler, set()) - {""}:
                found.append(f"foreign: {handler} was handed {', '.join(sorted(foreign))}")
        return sorted(found)

    # -- figures ---------------------------------------------------------------------------------------------------

    @property
    def confirmed(self) -> int:
        return sum(order.confirmed for order in self.orders.values())

    @property
    def runs(self) -> int:
        return sum(unit.runs for unit in self.units.values())

    @property
    def repeated_runs(self) -> int:
        """Runs beyond the first of each unit: what crashes have cost."""
        return sum(max(0, unit.runs - 1) for unit in self.units.values())

    @property
    def repeated_deliveries(self) -> int:
        return sum(count - 1 for count in self.deliveries.values())

    @property
    def longest_order(self) -> float:
        """Seconds from the announcement of an order to the last effect it had, for the slowest one."""
        return max((order.done_at - order.announced_at for order in self.orders.values() if order.done_at), default=0.0)


def flow(number: int, subject: str, placed: str) -> Iterator[tuple[str, str, set[tuple[str, str]]]]:
    """Every handler's work on one order: handler, unit, and the events that it has to be run with."""

    def announced(handler: str, unit: str) -> str:
        return str(uuid5(NAMESPACE_OID, f"{handler}/{unit}/0"))

    order = (placed, "order.placed")
    for handler in FIRST:
        yield handler, placed, {order}

    # Nobody rates an order: the join ends when its time is up.
    unrated = f"join:{subject}/{_of(placed)}/expired"
    yield "loyalty.thank_customer", unrated, {order}
    missed = announced("loyalty.thank_customer", unrated)
    yield "analytics.count_result", missed, {(missed, "rating.missed")}

    rejects, refuses = number % 10 == 9, number % 13 == 12
    answer = announced("restaurant.confirm_order", placed)
    answered = (answer, "order.rejected_by_restaurant" if rejects else "order.confirmed_by_restaurant")
    payment = announced("payment.charge_customer", placed)
    paid = (payment, "payment.failed" if refuses else "payment.charged")
    yield "notification.tell_customer", answer, {answered}
    yield "notification.tell_customer", payment, {paid}

    if not refuses:
        yield "loyalty.award_points", payment, {paid}
        points = announced("loyalty.award_points", payment)
        yield "analytics.count_result", points, {(points, "points.awarded")}
    if not refuses and not rejects:
        join = f"join:{subject}/{_of(answer, payment)}"
        yield "driver.assign_driver", join, {answered, paid}
        trip = announced("driver.assign_driver", join)
        yield "notification.tell_customer", trip, {(trip, "driver.assigned")}
        yield "analytics.count_result", trip, {(trip, "driver.assigned")}


def _of(*parts: str) -> str:
    """The work of a join is told by its parts as well: its key may be joined again one day."""
    return str(uuid5(NAMESPACE_OID, "/".join(sorted(parts))))
