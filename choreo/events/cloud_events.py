"""
CloudEvents of other programs: what choreo's own events never have, read as the specification says.

`Envelope.from_wire` reads choreo's own form itself, and comes here with all others. See
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, and formats/json-format.md beside it.
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from reprlib import Repr
from typing import Any, NoReturn

from choreo.errors import EnvelopeError

#: The content type of the data of every event that choreo reads or writes.
JSON = "application/json"
#: The content type of a message whose body is a whole event as JSON.
STRUCTURED = "application/cloudevents+json"
#: The one version of the specification that choreo reads and writes.
SPEC_VERSION = "1.0"
#: The names that are no attributes, or whose values are read elsewhere.
_UNCHECKED = "data", "data_base64", "time", "hops"
#: The integers of CloudEvents have 32 bits.
_LARGEST = 2**31 - 1

_is_name = re.compile("[a-z0-9]+").fullmatch
#: Names that were found to be right: most events have the same few. Another program may send any, so it is bounded.
_usual: set[str] = set()
_MOST_USUAL, _LONGEST_USUAL = 256, 40
#: A media type whose data is JSON, such as application/json, text/json and application/vnd.shop+json.
_is_json = re.compile(r"[\w.!#$&^-]+/(?:[\w.!#$&^-]+\+)?json", re.ASCII | re.IGNORECASE).fullmatch
_leap_second = re.compile(r"(.+[T ]\d\d:\d\d:)60(.*)").fullmatch

_shortener = Repr()
_shortener.maxstring = _shortener.maxother = 200
#: Shortens a value from a message for an error text: the value may be of any size.
brief = _shortener.repr


def conformed(wire: Mapping[Any, Any]) -> dict[str, Any]:
    """
    The same event in choreo's own form: its data is a JSON object, and no attribute is null.

    An event without data has no fields. Raises `EnvelopeError`, which names the faulty attribute.
    """
    given = {name: value for name, value in wire.items() if value is not None}
    if (version := given.get("specversion")) != SPEC_VERSION:
        raise EnvelopeError(
            f"specversion is {brief(version)}, and choreo reads CloudEvents {SPEC_VERSION}. Have the publisher send it."
        )
    for name in ("id", "type", "source"):
        _check_text(given, name)
    for name in ("subject", "correlationid", "causationid"):
        _check_text(given, name, "")
        if not given.get(name):
            given.pop(name, None)
    version = given.get("dataversion", 1)
    if type(version) is not int or version < 1:
        raise EnvelopeError(f"dataversion is {brief(version)}, not a number from 1")
    data = _data_of(given)
    # Another program may mean something else by hops: `Envelope.from_wire` reads it.
    _check_attributes({name: value for name, value in given.items() if name not in _UNCHECKED})
    given.pop("data_base64", None)
    return {**given, "datacontenttype": JSON, "data": data}


def are_attributes(attributes: Mapping[Any, Any]) -> bool:
    """True if these can be attributes of an event: names of lower-case letters and digits; texts, bools, integers."""
    for name, value in attributes.items():
        if not (type(value) is str and name in _usual) and not _is_attribute(name, value):
            return False
    return True


def _is_attribute(name: Any, value: Any) -> bool:
    kind = type(value)
    if not (kind is str or kind is bool or (kind is int and -_LARGEST - 1 <= value <= _LARGEST)):
        return False
    if type(name) is not str or not _is_name(name):
        return False
    if len(_usual) < _MOST_USUAL and len(name) <= _LONGEST_USUAL:
        _usual.add(name)
    return True


def moment_of(value: Any) -> datetime:
    """
    A time that `datetime.fromisoformat` cannot read: with a lower-case z, or in a leap second, which is the next one.

    An event without a time gets that of this moment. Raises `EnvelopeError` for anything else.
    """
    if value is None:
        return datetime.now(UTC)
    try:
        text = value.upper()
        leap = _leap_second(text)
        if leap is None:
            return datetime.fromisoformat(text)
        return datetime.fromisoformat(f"{leap[1]}59{leap[2]}") + timedelta(seconds=1)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise EnvelopeError(f"time is {brief(value)}, not a timestamp") from None


def data_in(body: str | bytes, content_type: Any = None) -> Any:
    """
    The JSON value in the data of an event. No content type means JSON, and no body means None.

    Raises `EnvelopeError` for data of another type, and for what is no JSON.
    """
    if not body:
        return None
    check_content_type(content_type)
    return json_in(body, "data")


def json_in(text: str | bytes, what: str) -> Any:
    """The value in a text. NaN and Infinity are no JSON. Raises `EnvelopeError`, which says ``what`` is none."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(f"{what} is not JSON: {brief(str(error))}") from error


def check_content_type(content_type: Any) -> None:
    """Raise `EnvelopeError` unless data of this type is JSON, in UTF-8. None is."""
    kind, _, parameters = content_type.partition(";") if isinstance(content_type, str) else (content_type, "", "")
    charset = parameters.lower().replace('"', "").replace(" ", "").partition("charset=")[2].partition(";")[0]
    if kind is not None and (not isinstance(kind, str) or not _is_json(kind.strip())):
        raise EnvelopeError(
            f"datacontenttype is {brief(content_type)}, and choreo reads JSON. Have the publisher send the data as a "
            f"JSON object ({JSON}), or announce where it is."
        )
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise EnvelopeError(f"datacontenttype is {brief(content_type)}, and choreo reads JSON in UTF-8")


def _data_of(given: Mapping[str, Any]) -> dict[str, Any]:
    content_type, encoded, data = given.get("datacontenttype"), given.get("data_base64"), given.get("data")
    if encoded is not None:
        if data is not None:
            raise EnvelopeError("it has both data and data_base64, and only one of them can be the data")
        data = data_in(_decoded(encoded), content_type)
    elif data is not None:
        check_content_type(content_type)
    if data is not None and not isinstance(data, dict):
        raise EnvelopeError(f"data is {type(data).__name__}, not a JSON object")
    return data or {}


def _decoded(encoded: Any) -> bytes:
    try:
        return b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise EnvelopeError(f"data_base64 is {brief(encoded)}, not base64: {error}") from error


def _check_text(given: Mapping[str, Any], name: str, default: str | None = None) -> None:
    value = given.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise EnvelopeError(f"{name} is {brief(value)}, not a text")


def _check_attributes(attributes: Mapping[Any, Any]) -> None:
    for name, value in attributes.items():
        if not are_attributes({name: value}):
            is_named = isinstance(name, str) and _is_name(name)
            raise EnvelopeError(
                f"the attribute {name} is {brief(value)}: CloudEvents allows a text, a bool or an integer of 32 bits"
                if is_named
                else f"it has an attribute {brief(name)}: a name consists of lower-case letters and digits"
            )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")
