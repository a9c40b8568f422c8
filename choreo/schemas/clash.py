"""Clashes: what a writer writes and a reader does not take."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is wrong between a writer and a reader."""

    #: The reader needs a field that is never written, or may be missing.
    MISSING = "missing"
    #: The reader takes a default, since the field is never written. It reads without an error.
    DEFAULTED = "defaulted"
    #: The reader refuses fields that it does not know, and one is written.
    REFUSED = "refused"
    #: A value of another type.
    TYPE = "type"
    #: null.
    NULL = "null"
    #: A value that is none of the reader's: of an enum or a literal.
    VALUE = "value"
    #: A text of another form: a plain text for a UUID.
    FORMAT = "format"
    #: A value out of the reader's bounds: too long, too large, of another pattern.
    BOUND = "bound"
    #: A keyword of JSON Schema that choreo does not judge.
    UNJUDGED = "unjudged"


@dataclass(frozen=True)
class Clash:
    """One thing that is written, and that a reader does not take."""

    kind: Kind
    #: The field, by its name on the wire: ``amount_cents``, ``items[].sku``, ``prices.*``. "" for the whole event.
    path: str
    #: What is written there, in words: ``a text``; "" if nothing is.
    written: str = ""
    #: What the reader takes, in words.
    read: str = ""
    #: True if it concerns every event that is written. False: some events, or that cannot be told.
    is_total: bool = False

    @property
    def is_fatal(self) -> bool:
        """False if the reader reads it all the same, and silently takes its default."""
        return self.kind is not Kind.DEFAULTED

    @property
    def field(self) -> str:
        """The field of the event in which it is: ``items`` of ``items[].sku``."""
        return self.path.partition(".")[0].partition("[")[0]

    @property
    def text(self) -> str:
        """In words: ``amount_cents is written as a text and read as a whole number``."""
        what = self.path or "the event"
        if self.kind is Kind.MISSING:
            return f"{what} is read and {'may be missing' if self.written else 'never written'}"
        if self.kind is Kind.DEFAULTED:
            return f"{what} is never written, so its default is read"
        if self.kind is Kind.REFUSED:
            return f"{what} is written, and fields that are not known are refused"
        if self.kind is Kind.UNJUDGED:
            return f"{what} cannot be judged: {self.read}"
        return f"{what} is written as {self.written} and read as {self.read}"
