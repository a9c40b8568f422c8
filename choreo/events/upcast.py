"""Upcasters: each makes the data of one version of an event that of the next version."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from choreo.errors import DeclarationError, UpcastError, VersionError
from choreo.events.envelope import READABLE_BY, Envelope
from choreo.places import place

#: The fields of an event, as JSON values.
Data = dict[str, Any]

_ABSENT = object()
#: For the texts of errors, which end in dead letters.
_REPLAY = "`choreo dead-letters replay --cause VersionError`"


@dataclass(frozen=True, eq=False)
class Upcast:
    """
    Makes the next version of an event's data: ``Upcast(1, ...)`` makes version 2 of version 1.

        >>> Upcast(1, renamed={"total": "total_cents"}, defaults={"currency": "EUR"})
        >>> Upcast(2, with_address)

    Say what has changed: fields that were ``renamed``, that are missing (``defaults``) or were ``dropped``, by their
    names on the wire and in this order. A name with dots leads into a field: ``{"street": "address.street"}`` nests
    it, ``{"address.street": "street"}`` takes it out. If the old and the new name are both there, the new one counts.
    Without any of them, the fields of the two versions are the same.

    For all else, write a function. It takes the data as a dict of its own, which it may change, and returns the new
    data. It must not do anything else: it is called for each attempt, and for each handler. If it raises, the event
    becomes a dead letter.

    Raises `DeclarationError` for both at once, and for values that cannot work.
    """

    #: The version whose data it takes, from 1. It makes the next one.
    version: int
    #: Returns the data of the next version. None: the other fields say it.
    function: Callable[[Data], Data] | None = None
    #: Old name → new name.
    renamed: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    #: Name → the value that a missing field gets, as JSON.
    defaults: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    #: The names of fields whose values are not to be read any more.
    dropped: Sequence[str] = field(default=(), kw_only=True)
    #: The file and line in which it is declared.
    _where: tuple[str, int] = field(default=("", 0), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        frame = sys._getframe(2)  # the caller of `__init__`, which dataclasses has written
        object.__setattr__(self, "_where", (frame.f_code.co_filename, frame.f_lineno))
        _check(self)

    def __str__(self) -> str:
        return f"Upcast({self.version})"

    @property
    def name(self) -> str:
        """The full name of its function; "" if it has none."""
        if self.function is None:
            return ""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{getattr(self.function, '__module__', '?')}.{name}"

    @property
    def place(self) -> str:
        """Where its function begins, or where it is declared: ``shop/events.py:14``, from the current directory."""
        code = getattr(self.function, "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code is not None else self._where
        return place(file, line)

    @property
    def made(self) -> tuple[str, ...]:
        """The names of the next version that it makes."""
        return *self.renamed.values(), *self.defaults

    def __call__(self, data: Data) -> Data:
        """Return the data of the next version. ``data`` may be changed. Raises what the function raises."""
        if self.function is not None:
            made = self.function(data)
            if not isinstance(made, dict):
                raise TypeError(f"it returned {type(made).__name__}, not the data as a dict")
            return made
        values = {new: _take(data, old) for old, new in self.renamed.items()}
        for name in self.dropped:
            _take(data, name)
        for name, value in values.items():
            _put(data, name, value)
        for name, value in self.defaults.items():
            _put(data, name, deepcopy(value))
        return data

    def described(self) -> dict[str, Any]:
        """As JSON. ``function`` is its full name, or None."""
        return {
            "from": self.version,
            "to": self.version + 1,
            "renamed": dict(self.renamed),
            "defaults": dict(self.defaults),
            "dropped": list(self.dropped),
            "function": self.name or None,
            "place": self.place,
        }

    @classmethod
    def from_described(cls, told: Mapping[str, Any]) -> "Upcast":
        """Read `described`. A function is not imported: one that raises is in its place."""
        if told["function"]:
            return cls(told["from"], _away(told["function"]))
        fields = {name: told[name] for name in ("renamed", "defaults", "dropped")}
        return cls(told["from"], **fields)


def _away(name: str) -> Callable[[Data], Data]:
    """Stands for a function of another program."""

    def away(data: Data) -> Data:  # noqa: ARG001 - as each upcaster is called
        raise LookupError(f"{name} is code of the service, which this program does not have")

    return away


def _take(data: Data, name: str) -> Any:
    """Remove a field, and return its value."""
    *outer, last = name.split(".")
    for part in outer:
        inner = data.get(part)
        if not isinstance(inner, dict):
            return _ABSENT
        data = inner
    return data.pop(last, _ABSENT)


def _put(data: Data, name: str, value: Any) -> None:
    """Give a missing field its value. Raises `ValueError` if there is no place for it."""
    if value is _ABSENT:
        return
    *outer, last = name.split(".")
    for part in outer:
        if data.get(part) is None:
            data[part] = {}
        data = data[part]
        if not isinstance(data, dict):
            raise ValueError(f"{part} is no object, so {name} has no place in it")
    data.setdefault(last, value)


# -- reading ---------------------------------------------------------------------------------------------------------


def data_for(event: Any, envelope: Envelope) -> Data:
    """
    The data of an event of another version than that of this class, as the class reads it. The envelope stays as it is.

    ``event`` is a class of events. Raises `VersionError` if it cannot read the version, and `UpcastError` if an
    upcaster fails.
    """
    if can_upcast(event, envelope.version):
        steps = event.event_upcasters
        return upcast(steps[envelope.version - steps[0].version :], envelope, _name_of(event))
    if is_readable(event, envelope):
        return envelope.data
    raise VersionError(_unread(event, envelope))


def can_upcast(event: Any, version: int) -> bool:
    """True if the upcasters of this class of events take this version."""
    steps = event.event_upcasters
    return bool(steps) and steps[0].version <= version < event.event_version


def is_readable(event: Any, envelope: Envelope) -> bool:
    """True if the newer version of an event says that this class can read it: see ``readable_by`` of `Event`."""
    oldest = envelope.extensions.get(READABLE_BY) if envelope.extensions else None
    return isinstance(oldest, int) and oldest <= event.event_version < envelope.version


def upcast(steps: Iterable[Upcast], envelope: Envelope, reader: str) -> Data:
    """The data of an event after these steps. Raises `UpcastError`, which names the one that failed."""
    data = envelope.data
    for step in steps:
        try:
            # A copy for each, since a function may return what belongs to somebody else.
            data = step(deepcopy(data))
        except Exception as error:
            what = f"{step.name or step} of {reader} ({step.place})"
            raise UpcastError(
                f"{what} cannot make version {step.version + 1} of {envelope}: {type(error).__name__}: {error}"
            ) from error
    return data


def _name_of(event: Any) -> str:
    return getattr(event, "__name__", "the service")  # a tool has no class, only what is told of it


def _unread(event: Any, envelope: Envelope) -> str:
    reader, known, version = _name_of(event), event.event_version, envelope.version
    steps = event.event_upcasters
    oldest = steps[0].version if steps else known
    reads = f"version {known}" if oldest == known else f"the versions {oldest} to {known}"
    code = f"code that knows version {version}"
    if version < known:
        code = f"Upcast({version}, ...) among the upcasters of {reader}"
    return f"{envelope} has version {version}, and {reader} reads {reads}. Deploy {code}, then: {_REPLAY}"


# -- checking --------------------------------------------------------------------------------------------------------


def checked_upcasters(where: str, upcasters: object, version: int, names: Iterable[str] | None) -> tuple[Upcast, ...]:
    """
    The upcasters of a class of events. ``names`` are those of its fields on the wire; None: it takes any.

    Raises `DeclarationError` unless they lead, one version after the other, to ``version`` and its fields.
    """
    if isinstance(upcasters, (str, Mapping, Upcast)) or not isinstance(upcasters, Iterable):
        raise DeclarationError(f"{where}: upcasters={upcasters!r} is not a list. Write upcasters=[Upcast(1, ...)].")
    steps: list[Upcast] = list(upcasters)
    for step in steps:
        if not isinstance(step, Upcast):
            raise DeclarationError(f"{where}: upcasters= holds {step!r}, which is no Upcast. Write Upcast(1, ...).")
        if step.version >= version:
            raise DeclarationError(
                f"{where}: Upcast({step.version}) makes version {step.version + 1}, and the class is version "
                f"{version}. Write version={step.version + 1}, or leave it out."
            )
    steps.sort(key=lambda step: step.version)
    there = [step.version for step in steps]
    if twice := [one for one, next_ in pairwise(there) if one == next_]:
        raise DeclarationError(f"{where}: Upcast({twice[0]}) is there twice. One step leads to each version.")
    if gaps := sorted(set(range(min(there, default=version), version)) - set(there)):
        raise DeclarationError(
            f"{where} is version {version}, and no upcaster makes version {gaps[0] + 1} of version {gaps[0]}. Add "
            f"Upcast({gaps[0]}, ...); without arguments it says that the fields are the same."
        )
    if names is not None:
        _check_names(where, steps, list(names))
    return tuple(steps)


def checked_readable_by(where: str, readable_by: object, version: int) -> int:
    """The oldest version that can read this one. Raises `DeclarationError` unless it is an older one, or 0: none."""
    if readable_by is None:
        return 0
    if not isinstance(readable_by, int) or isinstance(readable_by, bool) or not 1 <= readable_by < version:
        raise DeclarationError(
            f"{where}: readable_by={readable_by!r} is no version before {version}. Write the oldest version whose code "
            f"can read this one as it is, or leave it out."
        )
    return readable_by


def _check(step: Upcast) -> None:
    """Raise `DeclarationError` for an upcaster that cannot work."""
    where = f"Upcast({step.version!r}, ...)"
    if not isinstance(step.version, int) or isinstance(step.version, bool) or step.version < 1:
        raise DeclarationError(f"{where}: it takes the version that it begins with, from 1, like Upcast(1, ...).")
    if step.function is not None and not callable(step.function):
        raise DeclarationError(f"{where}: {step.function!r} is no function. Name fields with renamed={{...}}.")
    for option in ("renamed", "defaults"):
        if not isinstance(getattr(step, option), Mapping):
            raise DeclarationError(f'{where}: {option}={getattr(step, option)!r} is no dict like {{"name": ...}}.')
    if isinstance(step.dropped, str) or not isinstance(step.dropped, Sequence):
        raise DeclarationError(f'{where}: dropped={step.dropped!r} is not a list. Write dropped=["name"].')
    if step.function is not None and (step.renamed or step.defaults or step.dropped):
        raise DeclarationError(f"{where}: a function does all of the step. Leave out the function, or the fields.")
    for name in (*step.renamed, *step.made, *step.dropped):
        if not isinstance(name, str) or not all(name.split(".")):
            raise DeclarationError(f'{where}: {name!r} is no name of a field. Write "total", or "address.street".')
    _check_once(where, [*step.renamed, *step.dropped], "old")
    _check_once(where, list(step.renamed.values()), "new")
    try:
        json.dumps(dict(step.defaults), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DeclarationError(f"{where}: defaults={step.defaults!r} is no JSON ({error}), as events are.") from error


def _check_once(where: str, names: Sequence[str], kind: str) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise DeclarationError(f"{where}: the {kind} name {twice[0]!r} is there twice.")


def _check_names(where: str, steps: Sequence[Upcast], names: Sequence[str]) -> None:
    """Raise `DeclarationError` for a field that these steps make, and the class does not have."""
    for number, step in enumerate(steps):
        for name in _last_names(step.made, steps[number + 1 :]):
            first = name.partition(".")[0]
            if first in names:
                continue
            guess = get_close_matches(first, names, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"it has {', '.join(names) or 'no fields'}."
            raise DeclarationError(f"{where}: {step} makes {name!r}, and the class reads no such field: {hint}")


def _last_names(made: Iterable[str], later: Sequence[Upcast]) -> Iterator[str]:
    """The names of these fields after later steps, without those that are dropped or that a function may change."""
    if any(step.function for step in later):
        return
    for name in made:
        last: str | None = name
        for step in later:
            last = None if last is None else _next_name(last, step)
        if last is not None:
            yield last


def _next_name(name: str, step: Upcast) -> str | None:
    """The name of a field after a step; None if it is dropped."""
    if any(name == gone or name.startswith(f"{gone}.") for gone in step.dropped):
        return None
    for old, new in step.renamed.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name
