"""
Named points at which a worker dies, from the outside: nothing in choreo knows of them.

The points, in the order in which a delivery passes them:

    after begin      the claim is recorded, the handler has not begun
    after handler    the handler has returned, nothing is committed
    after commit     the outcome is recorded, its events are not sent
    after publish    they are sent, and the outbox does not know it yet
    before ack       all is done, but the broker does not know it yet

CHAOS_CRASH says who dies where and how often: `payment.charge_customer|1=after begin:1,2=after commit:2` kills the
process that handles order 1, once, and the one that handles order 2, and then the one that gets it next.
The deaths are counted in files, since whoever dies remembers nothing.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from choreo import Service
from choreo.broker.publisher import Publisher
from choreo.store import Verdict
from choreo.store.redis import RedisStore
from choreo.worker.delivery import Delivery
from tests.chaos.services import book

POINTS = ("after begin", "after handler", "after commit", "after publish", "before ack")


class Trap:
    """Kills the process at the point that is planned for the order in hand."""

    def __init__(self, handler: str, deaths: Mapping[str, tuple[str, int]]) -> None:
        self._handler = handler
        self._deaths = deaths
        self._here = threading.local()

    def enter(self, delivery: Delivery) -> None:
        """From now on this thread works on this delivery."""
        self._here.delivery = delivery

    def leave(self) -> None:
        self.spring("before ack")
        self._here.delivery = None

    def spring(self, point: str) -> None:
        """Die here, if this is the place."""
        delivery = getattr(self._here, "delivery", None)
        if delivery is None or delivery.subscription.name != self._handler:
            return
        subject = delivery.envelope.subject
        wanted, times = self._deaths.get(subject, ("", 0))
        if point == wanted and _is_first(subject, times):
            book.write(delivery.app.service_name, "crash", subject=subject, point=point)
            os.kill(os.getpid(), signal.SIGKILL)


def arm(app: Service) -> None:
    """Set the trap, if CHAOS_CRASH plans one for this service."""
    handler, _, plan = os.environ.get("CHAOS_CRASH", "").partition("|")
    if not plan or handler.partition(".")[0] != app.service_name:
        return
    entries = [entry.replace("=", ":").split(":") for entry in plan.split(",")]
    trap = Trap(handler, {f"ORD-{number}": (point, int(times)) for number, point, times in entries})

    _around(Delivery, "live", before=trap.enter, after=lambda _: trap.leave())
    _around(Delivery, "begin", after=lambda begun: begun.verdict is Verdict.RUN and trap.spring("after begin"))
    _around(Delivery, "_succeeded", before=lambda _: trap.spring("after handler"))
    _around(RedisStore, "commit", after=lambda _: trap.spring("after commit"))
    _around(Publisher, "send", after=lambda _: trap.spring("after publish"))


def _is_first(subject: str, times: int) -> bool:
    """Whether one of the deaths of this order has not been died yet; only one process can make its file."""
    for death in range(times):
        path = Path(os.environ["CHAOS_BOOKS"], f"{subject}.death-{death}")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            continue
        return True
    return False


def _around(
    cls: type, name: str, *, before: Callable[[Any], Any] | None = None, after: Callable[[Any], Any] | None = None
) -> None:
    """Call ``before`` with the object and ``after`` with the answer, around a method of a class and its subclasses."""

    def wrapped(original: Any) -> Any:
        @wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if before:
                before(self)
            answer = original(self, *args, **kwargs)
            if after:
                after(answer)
            return answer

        return call

    for owner in owners(cls, name):
        setattr(owner, name, wrapped(vars(owner)[name]))


def owners(cls: type, name: str) -> list[type]:
    """A class and those of its subclasses that define a method of this name themselves."""
    return [owner for owner in (cls, *cls.__subclasses__()) if name in vars(owner)]
