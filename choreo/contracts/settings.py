"""The settings of contracts: the table ``[tool.choreo.events]`` in pyproject.toml."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from choreo.contracts.contract import ContractError
from choreo.contracts.rules import RULES
from choreo.findings import LEVELS, WARNING, Finding
from choreo.guesses import hint
from choreo.pyproject import NAME, nearest, table

_KEYS = ("directory", "packages", "title", "severity", "allow")
_ALLOW = ("rule", "event", "field", "reason")


@dataclass(frozen=True)
class Allowance:
    """An entry of the allow-list. It names findings by patterns such as ``payment.*``, and says why they are right."""

    rule: str
    reason: str
    event: str = "*"
    path: str = "*"

    def matches(self, finding: Finding) -> bool:
        """True if it accepts this finding."""
        pairs = ((finding.rule, self.rule), (finding.subject, self.event), (finding.facts.get("field", ""), self.path))
        return all(fnmatchcase(value, pattern) for value, pattern in pairs)


@dataclass(frozen=True)
class Settings:
    """What the table says."""

    #: The directory of the contract files.
    directory: Path = Path("contracts")
    #: The packages whose services and events are meant. (): those of the current directory.
    packages: tuple[str, ...] = ()
    #: The title of the AsyncAPI document.
    title: str = "Events"
    #: The id of a rule → its level.
    severity: Mapping[str, str] = field(default_factory=dict)
    allow: tuple[Allowance, ...] = ()

    def apply(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """The findings with the levels of the settings, and the reasons of the allow-list."""
        used: set[Allowance] = set()
        for finding in findings:
            found = next((entry for entry in self.allow if entry.matches(finding)), None)
            used |= {found} if found else set()
            level = self.severity.get(finding.rule, finding.level)
            yield replace(finding, level=level, allowed=found.reason if found else "")
        for entry in sorted({*self.allow} - used, key=lambda one: (one.rule, one.event)):
            text = f"the allow-list of {NAME} accepts {entry.rule}, and nothing is found ({entry.reason})"
            yield Finding("allow-unused", WARNING, entry.event, text, RULES["allow-unused"].fix, file=NAME)


def read_settings(directory: Path) -> Settings:
    """
    The settings of the nearest ``pyproject.toml``, in this directory or above it; the usual ones without a table.

    The path of `Settings.directory` is one for this directory. Raises `ContractError` for a wrong value.
    """
    file = nearest(directory)
    try:
        given = {} if file is None else table(file, "events")
    except (OSError, ValueError) as error:
        raise ContractError(f"{file} cannot be read: {error}") from error
    _check_keys("", given, _KEYS)
    for name in ("packages", "allow"):
        if not isinstance(given.get(name, []), list):
            raise _wrong(f"{name} = {given[name]!r}", "write a list: [...].")
    severity = dict(given.get("severity", {}))
    for rule, level in severity.items():
        _check_rule(rule)
        if level not in LEVELS:
            raise _wrong(f"severity: {rule} = {level!r}", f"write one of {', '.join(LEVELS)}.")
    return Settings(
        _directory_of(file, given, directory),
        tuple(given.get("packages", ())),
        str(given.get("title", "Events")),
        severity,
        tuple(map(_allowance, given.get("allow", ()))),
    )


def _directory_of(file: Path | None, given: Mapping[str, Any], directory: Path) -> Path:
    """The directory of the contract files, from this directory: the file's own path is one for the file's place."""
    if file is None or "directory" not in given:
        return Path("contracts")
    return Path(os.path.relpath(file.parent / str(given["directory"]), directory))


def _allowance(entry: Mapping[str, Any]) -> Allowance:
    _check_keys("allow: ", entry, _ALLOW)
    _check_rule(str(entry.get("rule", "")))
    if not str(entry.get("reason", "")).strip():
        raise _wrong(f"allow: {entry.get('rule')} has no reason", "say why it is right: reason = '...'.")
    given = {name: str(value) for name, value in entry.items()}
    return Allowance(given["rule"], given["reason"], given.get("event", "*"), given.get("field", "*"))


def _check_keys(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise _wrong(f"{where}{name}: unknown", hint(name, known, "it takes"))


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise _wrong(f"{rule!r} is no rule", hint(rule, RULES, "docs/contracts.md lists them."))


def _wrong(what: str, way_out: str) -> ContractError:
    return ContractError(f"{NAME}, [tool.choreo.events]: {what}; {way_out}")
