"""Why an event has not been announced: walks from its type backwards, to the first thing that did not happen."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from choreo.observe.cause import Cause


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on the way."""

    #: 0 for the event that was asked for.
    depth: int
    #: True: it happened. False: it did not. None: it says more about the one before.
    is_met: bool | None
    #: An event type, or the name of a handler.
    what: str
    text: str


@dataclass(frozen=True)
class WhyNot:
    """The answer."""

    type: str
    subject: str
    findings: Sequence[Finding]
    cause: Cause
    #: What was not looked at, in words.
    notes: Sequence[str] = ()

    def to_json(self) -> str:
        """As one JSON object."""
        return json.dumps(self.to_dict(), default=str)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        cause = asdict(self.cause) | {"weight": self.cause.weight.name.lower(), "do": list(self.cause.do)}
        return {
            "type": self.type,
            "subject": self.subject,
            "cause": cause,
            "do": cause["do"],
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }
