"""Changes that a page offers: a form, or on pages that only read the command that does the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from choreo.observe.cause import command


@dataclass(frozen=True)
class Change:
    """Something that a person can change. The template change.html shows it."""

    #: The text of its button: a verb.
    label: str
    #: The address that the form is sent to.
    action: str
    #: The words of the command that does the same.
    words: tuple[str, ...]
    #: What it does, in a sentence.
    told: str = ""
    #: Further fields of the form.
    fields: Mapping[str, str] = field(default_factory=dict)
    #: True if it cannot be undone.
    is_final: bool = False
    #: True if its form is shown at once.
    is_open: bool = False

    @property
    def command(self) -> str:
        """The command for a shell that does the same."""
        return command(*self.words)

    @property
    def id(self) -> str:
        """A name for it that no other change of a page has."""
        told = "\0".join([self.label, self.action, *self.fields.values()])
        return f"do-{hashlib.sha256(told.encode(errors='replace')).hexdigest()[:10]}"
