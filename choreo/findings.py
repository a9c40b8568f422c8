"""Findings: what a check of the code has found, as plain data. The command line prints them in several formats."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: The levels of a finding, the worst first. An error makes a command fail.
LEVELS = ERROR, WARNING, NOTE = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found."""

    #: The stable id of the rule, such as ``field-removed``.
    rule: str
    #: One of `LEVELS`.
    level: str
    #: What it is about: an event type, a handler or a service.
    subject: str
    #: What was found: the end of a sentence that ``subject`` begins.
    text: str
    #: The way out; "" if there is none to name.
    fix: str = ""
    #: The file that has the fault, relative to the current directory, and its line from 1. "" and 0: not known.
    file: str = ""
    line: int = 0
    #: Why it is accepted, as an allow-list says; "" if none does. What is accepted makes no command fail.
    allowed: str = ""
    #: What else is known, for JSON.
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """``shop/events.py:12``; "" if it is not known."""
        return f"{self.file}:{self.line}" if self.file and self.line else self.file

    def fails(self, level: str = ERROR) -> bool:
        """True if it is of this level or a worse one, and not accepted."""
        return not self.allowed and LEVELS.index(self.level) <= LEVELS.index(level)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; those of one level by what they are about. What is accepted comes last."""
    return sorted(
        findings, key=lambda one: (bool(one.allowed), LEVELS.index(one.level), one.subject, one.rule, one.text)
    )
