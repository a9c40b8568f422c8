"""The stage: the whole platform, an observer, and somebody who writes down what happens."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from choreo.local import Platform
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.story.observer import Observer
from handlers.story.paper import Paper

SERVICES = [module.app for module in (order, restaurant, payment, driver, notification, analytics, loyalty)]
#: How long anything in the story may take. It takes far less, also on a slow machine.
PATIENCE_SECONDS = 20.0
#: When nothing has happened for so long, a chapter has no line left.
QUIET_SECONDS = 0.35


class StoryError(Exception):
    """The story did not come out as it is told."""


@dataclass(frozen=True)
class Order:
    """An order of this story."""

    id: str
    customer: str


@dataclass
class Stage:
    """Where the chapters play."""

    platform: Platform
    paper: Paper
    observer: Observer = field(default_factory=lambda: Observer(order.app, SERVICES))
    orders: list[Order] = field(default_factory=list)
    #: The orders of the chapter that is being told.
    _told: dict[str, str] = field(default_factory=dict)
    _left_out: tuple[str, ...] = ()
    _failures: Counter[str] = field(default_factory=Counter)
    _began_at: float = 0.0
    _quiet_since: float = 0.0

    def chapter(self, title: str, text: str, *, leave_out: tuple[str, ...] = ()) -> None:
        """Begin a chapter. Earlier orders are no longer told; nor is what these handlers do."""
        self._told = {}
        self._left_out = leave_out
        self.paper.heading(title)
        self.paper.prose(text)
        self.paper.prose()

    def place(self, customer: str, restaurant_id: str, items: list[str], total_cents: int) -> Order:
        """A customer orders. The chapter's clock starts with its first order."""
        if not self._told:
            self._began_at = time.time()
        placed = Order(order.place_order(customer, restaurant_id, items, total_cents), customer)
        self.orders.append(placed)
        self._told[placed.id] = customer
        return placed

    def until(self, what: str, probe: Callable[[], bool]) -> None:
        """Tell what happens until ``probe`` is true and nothing more comes. Raises `StoryError` when it never is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        true_since = None
        while true_since is None or not self._is_quiet_since(true_since):
            self._tell_what_happened()
            if true_since is None and probe():
                true_since = time.monotonic()
            if self.platform.exited:
                died = ", ".join(self.platform.exited)
                raise StoryError(f"{died} ended by itself. {self._last_words(*self.platform.exited)}")
            if time.monotonic() > deadline:
                raise StoryError(f"{PATIENCE_SECONDS:.0f} s are over, and it is still not true that {what}.")
            time.sleep(0.02)

    def failures(self, placed: Order) -> int:
        """How many failed attempts were told of an order."""
        return self._failures[placed.id]

    def start(self, *names: str) -> None:
        """Start workers, and show who is ready."""
        self.platform.start(*names)
        self.paper.words("  ready:")
        waiting = list(names or self.platform.services)
        deadline = time.monotonic() + 60
        while waiting:
            for name in [name for name in waiting if self.platform.is_ready(name)]:
                self.paper.words(f" {name}")
                waiting.remove(name)
            if self.platform.exited or time.monotonic() > deadline:
                self.paper.words(end=True)
                self.platform.wait_ready(0)
            time.sleep(0.05)

    def _tell_what_happened(self) -> None:
        while (happening := self.observer.next()) is not None:
            if happening.subject not in self._told or happening.handler in self._left_out:
                continue
            self._quiet_since = time.monotonic()
            self._failures[happening.subject] += happening.trouble
            aside = self._told[happening.subject] if len(self._told) > 1 else ""
            self.paper.happening(
                max(0.0, happening.at - self._began_at),
                happening.service,
                happening.text,
                trouble=happening.trouble,
                aside=aside,
            )

    def _is_quiet_since(self, when: float) -> bool:
        return time.monotonic() - max(when, self._quiet_since) > QUIET_SECONDS

    def _last_words(self, *names: str) -> str:
        lines = [f"  {line}" for name in names for line in self.platform.last_lines(name)]
        return "\n".join(["The end of the log:", *lines])
