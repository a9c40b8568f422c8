"""The rules by which changes of events are judged. Their ids are stable: an allow-list names them."""

from collections.abc import Mapping
from dataclasses import dataclass

from choreo.findings import ERROR, NOTE, WARNING
from choreo.schemas.clash import Kind


@dataclass(frozen=True)
class Rule:
    """A kind of change."""

    #: What it means, in a sentence.
    summary: str
    #: The level of a finding that hurts a reader, unless the settings give it another one.
    level: str = ERROR
    #: The way out.
    fix: str = ""


_VERSION = "write the next version=, with upcasters=[Upcast(...)]"
_READERS_FIRST = "deploy readers that take both first"

RULES: Mapping[str, Rule] = {
    # What publishers write now, and readers of the old code do not take.
    "field-removed": Rule("A field is gone that readers need.", fix=f"keep it until no reader needs it, or {_VERSION}"),
    "field-renamed": Rule("A field has another name now.", fix=f"{_VERSION}: renamed={{...}}"),
    "field-optional": Rule("A field may be missing now that readers need.", fix="write it always"),
    "field-refused": Rule(
        "A field is written that readers refuse: their classes have extra='forbid'.", fix="extra='ignore' in the reader"
    ),
    "null-added": Rule("A field may be null now, which readers do not take.", fix=_READERS_FIRST),
    "value-added": Rule("A field may have a new value that readers do not know.", fix=_READERS_FIRST),
    "bound-widened": Rule("A field may have values that are out of the bounds of readers.", fix=_READERS_FIRST),
    # What readers need now, and the old code has written.
    "field-required": Rule("A field is needed now that older events lack.", fix=f"give it a default, or {_VERSION}"),
    "null-refused": Rule("null is not taken any more, and older events have it.", fix=f"take None, or {_VERSION}"),
    "value-removed": Rule(
        "A value is not taken any more, and older events have it.", fix=f"keep the value, or {_VERSION}"
    ),
    "bound-tightened": Rule(
        "Older events have values that are out of the new bounds.", fix=f"keep the bound, or {_VERSION}"
    ),
    # Both.
    "type-changed": Rule("A field has another type.", fix=f"add a field of the new type beside it, or {_VERSION}"),
    "format-changed": Rule("A text has another form.", fix=f"add a field beside it, or {_VERSION}"),
    "not-judged": Rule(
        "choreo cannot judge this part of a schema.", fix="compare it yourself, and allow it with a reason"
    ),
    "version-unread": Rule(
        "A version is announced that readers do not read.", fix="deploy readers of both versions first, or readable_by="
    ),
    "upcaster-missing": Rule("An older version is not read any more.", fix="upcasters=[Upcast(...)] for it"),
    "version-lowered": Rule("The version of an event is lower than before.", fix="raise it above the former one"),
    "event-removed": Rule("An event is gone that handlers still hear.", fix="remove its handlers first"),
    # Nobody is hurt, if it is done with care.
    "deploy-order": Rule("Readers must be deployed before publishers.", WARNING),
    "default-read": Rule("Readers take their default for a field that is gone.", WARNING, "let them do without it"),
    "version-unchanged": Rule("The fields changed, and the version did not.", WARNING, _VERSION),
    "announcer-removed": Rule("Nobody announces an event any more that handlers hear.", WARNING),
    "allow-unused": Rule("An entry of the allow-list matches nothing.", WARNING, "remove it"),
    "version-upcast": Rule("An older version is read through upcasters.", NOTE),
    "event-added": Rule("An event is new.", NOTE),
}

#: What a clash means for what publishers write from now on; and for what was written before.
WRITTEN_NOW = {
    Kind.MISSING: "field-removed",
    Kind.REFUSED: "field-refused",
    Kind.TYPE: "type-changed",
    Kind.NULL: "null-added",
    Kind.VALUE: "value-added",
    Kind.FORMAT: "format-changed",
    Kind.BOUND: "bound-widened",
    Kind.UNJUDGED: "not-judged",
    Kind.DEFAULTED: "default-read",
}
WRITTEN_BEFORE = WRITTEN_NOW | {
    Kind.MISSING: "field-required",
    Kind.NULL: "null-refused",
    Kind.VALUE: "value-removed",
    Kind.BOUND: "bound-tightened",
}
