"""Deployments: bindings that are there before any worker declares them, and handlers that are being retired."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from choreo.events.patterns import Binding


@dataclass(frozen=True, slots=True)
class Applied:
    """The bindings of one service that `choreo topology apply` has made. They count as declared for a while."""

    bindings: frozenset[Binding]
    #: False until the broker has all of them.
    is_made: bool = False


class Step(StrEnum):
    """A step of a retirement: an argument of `Deployments.retire`."""

    #: Begin. Refused while a live worker declares the handler.
    BEGIN = "begin"
    #: Begin, although live workers declare the handler: they work off its queue, which gets no more events.
    DRAIN = "drain"
    #: The queue will be deleted within the next seconds. A worker that declares the handler waits for the end of that.
    DELETE = "delete"
    #: The queue is deleted. A worker that declares the handler makes it anew, and says so.
    END = "end"
    #: The handler is not retired after all.
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Retirement:
    """The mark of a handler that is being retired, or was retired."""

    #: The name of its queue.
    queue: str
    #: Who retires it, when and why, for people. The store does not read it.
    record: str = ""
    #: True once the queue is deleted.
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Retiring:
    """The answer of `Deployments.retire`."""

    #: True if the step was made.
    is_done: bool
    #: The live workers that declare the handler, by their names in the register.
    owners: Sequence[str] = field(default_factory=tuple)
    #: True if `choreo topology apply` has declared it, and that still counts.
    is_applied: bool = False


class Deployments(Protocol):
    """What is made before the workers of a version start, and removed after the last one. Each method is atomic."""

    def apply(self, service: str, bindings: Sequence[Binding], seconds: float, *, is_made: bool = False) -> None:
        """
        Let these bindings count as declared for ``seconds``, in place of what was applied for the service before.

        ``is_made`` tells that the broker has all of them.
        """

    def applied(self, service: str) -> Applied | None:
        """What was applied for a service, and still counts; None: nothing."""

    def retire(self, service: str, queue: str, step: Step, record: str = "", seconds: float = 0.0) -> Retiring:
        """
        Make a step in the retirement of the handler with this queue.

        BEGIN and END are refused while a live worker declares the handler, and so is DELETE, which holds for
        ``seconds``. DELETE and END need a mark: it is gone once a worker that has started since declares the handler.
        From the first step on the bindings of the queue count as declared by nobody.
        """

    def retirements(self, service: str) -> list[Retirement]:
        """The marks of a service's handlers, by queue."""

    def forget(self, handler: str) -> bool:
        """
        Forget all that is kept of a handler: its record, its inbox, its counters, its pause, and its name.

        False, and nothing is forgotten, if it has dead letters or entries in its schedule.
        """
