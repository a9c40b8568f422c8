"""The settings of `choreo check`, in ``pyproject.toml`` under ``[tool.choreo.check]``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from choreo.errors import ChoreoError
from choreo.guesses import hint
from choreo.pyproject import nearest, table


class CheckError(ChoreoError):
    """The check cannot begin: a setting is wrong, or the code cannot be read. The message names the way out."""


@dataclass(frozen=True)
class Allowance:
    """A finding that is accepted, with the reason. Written in ``allow`` of the settings."""

    #: The code of the rule.
    code: str
    #: What the finding is about, or its file; ``*`` stands for any text.
    where: str
    #: Why it is accepted.
    reason: str

    def fits(self, code: str, subject: str, file: str) -> bool:
        """True if it accepts the findings of this rule about this subject, or in this file."""
        return code == self.code and any(fnmatchcase(text, self.where) for text in (subject, file) if text)


@dataclass(frozen=True)
class Settings:
    """What a check allows. The budgets are the largest numbers that are no finding."""

    #: Handlers that hear one event.
    fan_out: int = 12
    #: Events in a chain, each of which leads to the next.
    depth: int = 8
    #: Services that the events of one story reach.
    services: int = 10
    #: Fields of an event.
    fields: int = 15
    #: Types and patterns of events that programs elsewhere announce.
    announced_elsewhere: tuple[str, ...] = ()
    #: Types and patterns of events that programs elsewhere hear.
    heard_elsewhere: tuple[str, ...] = ()
    allow: tuple[Allowance, ...] = ()
    #: The file they come from; "" for the defaults.
    file: str = ""

    @classmethod
    def read(cls, directory: Path) -> "Settings":
        """
        Read the settings of the nearest ``pyproject.toml``, in this directory or above it.

        Raises `CheckError` for a file or a value that cannot be read.
        """
        file = nearest(directory)
        return cls() if file is None else cls._of(file)

    @classmethod
    def _of(cls, file: Path) -> "Settings":
        try:
            given = table(file, "check")
        except (OSError, ValueError) as error:
            raise CheckError(f"{file} cannot be read: {error}") from error
        known = {field.name: field.default for field in fields(cls) if field.name != "file"}
        values = {name: _checked(name, value, known) for name, value in given.items()}
        return cls(**values, file=str(file))


def _checked(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    where = f"pyproject.toml, [tool.choreo.check] {name}"
    if name not in known:
        raise CheckError(f"{where}: there is no such setting. {hint(name, known, 'There are')}")
    if name == "allow":
        return tuple(_allowance(one) for one in value) if isinstance(value, list) else _refuse(where, value, "a list")
    if isinstance(known[name], int):
        is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return value if is_number else _refuse(where, value, "a number from 1")
    is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return tuple(value) if is_list else _refuse(where, value, "a list of texts")


def _allowance(given: Any) -> Allowance:
    where = "pyproject.toml, [tool.choreo.check] allow"
    names = [field.name for field in fields(Allowance)]
    if not isinstance(given, dict) or set(given) - set(names) or not given.get("code") or not given.get("where"):
        _refuse(where, given, 'like {code="CH203", where="payment.*", reason="..."}')
    return Allowance(**{name: str(given.get(name, "")) for name in names})


def _refuse(where: str, value: object, wanted: str) -> Any:
    raise CheckError(f"{where}: {value!r} is not {wanted}.")
