"""The stage: the platform, an observer, and the output on which the chapters print."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from choreo.local import Platform
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.story.observer import Observer
from handlers.story.paper import Paper

SERVICES = [module.app for module in (order, restaurant, payment, driver, notification, analytics, loyalty)]
#: Seconds that a step of the story may take. It takes far less, also on a slow machine.
PATIENCE_SECONDS = 20.0
#: After so many seconds without an event, all lines of a step are printed.
QUIET_SECONDS = 0.35


class StoryError(Exception):
    """A step of the story failed."""


@dataclass(frozen=True)
class Order:
    """An order of this story."""

    id: str
    customer: str


@dataclass
class Stage:
    """The platform with its observer and its output."""

    platform: Platform
    paper: Paper
    observer: Observer = field(default_factory=lambda: Observer(order.app, SERVICES))
    orders: list[Order] = field(default_factory=list)
    #: The orders of the current chapter: order id → customer.
    _shown: dict[str, str] = field(default_factory=dict)
    _left_out: tuple[str, ...] = ()
    _failures: Counter[str] = field(default_factory=Counter)
    _began_at: float = 0.0
    _quiet_since: float = 0.0

    def chapter(self, title: str, text: str, *, leave_out: tuple[str, ...] = ()) -> None:
        """Begin a chapter. Hides the orders of earlier chapters, and the runs of the handlers in ``leave_out``."""
        self._shown = {}
        self._left_out = leave_out
        self.paper.heading(title)
        self.paper.prose(text)
        self.paper.prose()

    def place(self, customer: str, restaurant_id: str, items: list[str], total_cents: int) -> Order:
        """Place an order. The clock of the chapter starts with its first order."""
        if not self._shown:
            self._began_at = time.time()
        placed = Order(order.place_order(customer, restaurant_id, items, total_cents), customer)
        self.orders.append(placed)
        self._shown[placed.id] = customer
        return placed

    def until(self, what: str, probe: Callable[[], bool]) -> None:
        """Print events until ``probe`` is true and no more arrive. Raises `StoryError` when it is not true in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        true_since = None
        while true_since is None or not self._is_quiet_since(true_since):
            self._tell_what_happened()
            if true_since is None and probe():
                true_since = time.monotonic()
            if self.platform.exited:
                died = ", ".join(self.platform.exited)
                raise StoryError(f"{died} ended unexpectedly. {self._log_end(*self.platform.exited)}")
            if time.monotonic() > deadline:
                raise StoryError(f"{PATIENCE_SECONDS:.0f} s are over, and it is still not true that {what}.")
            time.sleep(0.02)

    def failures(self, placed: Order) -> int:
        """Return the number of failed attempts that were printed for an order."""
        return self._failures[placed.id]

    def start(self, *names: str) -> None:
        """Start workers, and print each name when the worker is ready."""
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
            if happening.subject not in self._shown or happening.handler in self._left_out:
                continue
            self._quiet_since = time.monotonic()
            self._failures[happening.subject] += happening.trouble
            aside = self._shown[happening.subject] if len(self._shown) > 1 else ""
            self.paper.happening(
                max(0.0, happening.at - self._began_at),
                happening.service,
                happening.text,
                trouble=happening.trouble,
                aside=aside,
            )

    def _is_quiet_since(self, when: float) -> bool:
        return time.monotonic() - max(when, self._quiet_since) > QUIET_SECONDS

    def _log_end(self, *names: str) -> str:
        lines = [f"  {line}" for name in names for line in self.platform.last_lines(name)]
        return "\n".join(["The end of the log:", *lines])
