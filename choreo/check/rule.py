"""A rule of `choreo check`: its code, what it finds, why that hurts, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from choreo.check.code import NOWHERE, Spot
from choreo.findings import WARNING, Finding
from choreo.places import shown

if TYPE_CHECKING:
    from choreo.check.platform import Platform


@dataclass(frozen=True)
class Fault:
    """One thing that a rule has found."""

    #: What it is about: an event type, a handler, a service or a module.
    subject: str
    #: The end of a sentence that ``subject`` begins.
    text: str
    #: Where it is.
    spot: Spot = NOWHERE
    #: The way out, if this one needs another than the rule's.
    fix: str = ""


@dataclass(frozen=True)
class Rule:
    """One rule. Its code is stable: people write it into their allowances."""

    #: ``CH101``: the first digit is the family, which has a file of its own.
    code: str
    #: What is wrong, in a few words.
    summary: str
    #: Why it hurts, in one sentence.
    why: str
    #: The way out, in one sentence.
    fix: str
    #: Finds the faults of a platform.
    find: Callable[[Platform], Iterator[Fault]]
    #: One of `choreo.findings.LEVELS`.
    level: str = WARNING
    #: True if it judges how services fit together. It says nothing if some of them are not there.
    needs_all: bool = False

    def finding(self, fault: Fault) -> Finding:
        """The finding of a fault."""
        spot = fault.spot
        file = shown(spot.file) if spot.file else ""
        return Finding(self.code, self.level, fault.subject, fault.text, fault.fix or self.fix, file, spot.line)


def nothing(_: Platform) -> Iterator[Fault]:
    """Find nothing: for rules whose faults are found while the code is read."""
    return iter(())
