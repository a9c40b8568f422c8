"""
Metadata that a program gives to an event, such as ``tenant``. Every event that the event causes inherits it.

It travels as extension attributes of CloudEvents
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#extension-context-attributes). ``traceparent`` and
``tracestate`` are those of its distributed tracing extension
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md).
"""

import re
from collections.abc import Iterable, Mapping
from reprlib import Repr
from typing import Any

from choreo.errors import InvalidEventError
from choreo.events.envelope import CONTEXT

#: The value of one name.
Value = str | int | bool
#: Metadata as a program gives it: name → value. None for a name that is not to be inherited.
Meta = Mapping[str, Value | None]

#: The longest name; more is against CloudEvents' advice.
LONGEST_NAME = 20
#: The longest value, in characters: that of a ``tracestate``, which W3C's Trace Context allows 512.
LONGEST_VALUE = 512
#: The most names of one event. They are in each message of each event of the story.
MOST_NAMES = 16
#: The integers of CloudEvents have 32 bits.
LARGEST = 2**31 - 1

#: The names of the trace that an event was made in. An event inherits both of one cause, or neither.
TRACE = "traceparent", "tracestate"
#: The name under which an event tells that alerts led to it: the handlers whose dead letters they told of, with spaces
#: between them. Events inherit it, and a program can neither set nor drop it. See `choreo.delivery.alert`.
ALERTED = "choreoalert"
#: The names of CloudEvents' documented extensions that are about one event only, and so are not inherited.
OF_ONE_EVENT = frozenset(
    "dataref expirytime partitionkey recordedtime sampledrate sequence sequencetype severitynumber severitytext".split()
)

_is_name = re.compile("[a-z0-9]+").fullmatch
_is_trace = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch

_brief = Repr()
_brief.maxstring = _brief.maxother = 80


def checked_meta(meta: object) -> Meta:
    """
    Return this metadata; None is nothing.

    Raises `InvalidEventError` for a name or a value that cannot travel, with the way out.
    """
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise InvalidEventError(f'meta={_brief.repr(meta)} is not a dict. Write meta={{"tenant": "acme"}}.')
    for name, value in meta.items():
        if fault := _fault_of_name(name) or (None if value is None else _fault(name, value)):
            raise InvalidEventError(f"meta: {_brief.repr(name)}: {_brief.repr(value)} cannot travel: {fault}")
    return dict(meta)


def inherited(causes: Iterable[Mapping[str, Any]], trace: Mapping[str, Any]) -> dict[str, Value]:
    """
    The metadata that an event inherits. ``causes`` are the extension attributes of the events that cause it.

    If several have a name, the first of them counts. The trace is that of the attributes ``trace``: those of the event
    that is its cause by the causation id. Attributes that another program wrote are inherited if they could be given
    here; those that begin with "choreo", but for `ALERTED`, belong to one event or message, and so do those of
    `OF_ONE_EVENT`.
    """
    handed: dict[str, Value] = {}
    for attributes in causes:
        for name, value in attributes.items():
            if name not in handed and name not in TRACE and _is_handed_on(name, value):
                handed[name] = value
    return handed | {name: trace[name] for name in TRACE if name in trace and _is_handed_on(name, trace[name])}


def joined(inherits: Mapping[str, Value], given: Meta) -> dict[str, Value]:
    """
    What an event inherits, with what is given to it, which goes first.

    Raises `InvalidEventError` if that is more than `MOST_NAMES`.
    """
    kept = {name: value for name, value in inherits.items() if not ("traceparent" in given and name in TRACE)}
    whole = {name: value for name, value in (kept | dict(given)).items() if value is not None}
    names = whole.keys() - {*TRACE, ALERTED}
    if given and len(names) > MOST_NAMES:
        raise InvalidEventError(
            f"meta: {', '.join(sorted(names))} are {len(names)} names, more than {MOST_NAMES}. They are in each "
            f"message of the story: give fewer, such as the key of a record that holds the rest."
        )
    return whole


def _is_handed_on(name: str, value: Any) -> bool:
    return name == ALERTED or (name not in OF_ONE_EVENT and not _fault_of_name(name) and not _fault(name, value))


def _fault_of_name(name: object) -> str:
    """Why this cannot be the name of a value; "" if it can."""
    if not isinstance(name, str) or not _is_name(name):
        return "a name consists of lower-case letters and digits, as CloudEvents has it. Write it like tenantid."
    if len(name) > LONGEST_NAME:
        return f"the name is longer than {LONGEST_NAME} characters. Shorten it."
    if name in CONTEXT or name.startswith("choreo"):
        return f"{name} is an attribute of the event itself. Choose another name."
    return ""


def _fault(name: str, value: object) -> str:
    """Why this cannot be the value of a name; "" if it can."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if -LARGEST - 1 <= value <= LARGEST else "a number has 32 bits at most. Give it as a text."
    if not isinstance(value, str):
        return "a value is a text, a whole number or a bool. Give it as a text, or make it a field of the event."
    if len(value) > LONGEST_VALUE:
        return (
            f"it has {len(value):,} characters, and {LONGEST_VALUE} may travel with each event of the story. Give the "
            f"key of a record that holds it, or make it a field of the event."
        )
    if name == "traceparent" and not _is_trace(value):
        return "it is no W3C traceparent, like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01."
    return ""
