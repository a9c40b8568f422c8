"""Checks the packages and services that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from choreo.check import names
from choreo.check.allowing import Allowing, Found
from choreo.check.code import Spot
from choreo.check.platform import Platform
from choreo.check.reading import Refusal, read
from choreo.check.rule import Fault
from choreo.check.rules import IDLE, REFUSED, RULES
from choreo.check.settings import Settings
from choreo.errors import EventNameError
from choreo.findings import Finding


def check(targets: Sequence[str], directory: Path) -> list[Finding]:
    """
    Check these packages and services together, and return what was found, by its place.

    A target is a package, a module, or a service as for `celery -A`; without one it is the only package in the
    directory. What is refused at import is a finding. Raises `DiscoveryError` for code that cannot be imported for
    another reason, and `CheckError` for wrong settings.
    """
    platform, refusals = read(targets, directory, Settings.read(directory))
    return judge(platform, refusals)


def judge(platform: Platform, refusals: Sequence[Refusal] = ()) -> list[Finding]:
    """Apply the rules to a platform. Refusals are what it lacks, because it could not be imported."""
    is_whole = platform.is_whole and not refusals
    rules = [rule for rule in RULES.values() if is_whole or not rule.needs_all]
    found = [(rule, fault) for rule in rules for fault in rule.find(platform)]
    allowing = Allowing(platform)
    findings = list(allowing.applied([*map(_refused, refusals), *found]))
    # What was not judged may be what an allowance is for.
    findings += [rule.finding(fault) for rule, fault in allowing.faults() if is_whole or rule is not IDLE]
    return sorted(dict(zip(map(_key, findings), findings, strict=True)).values(), key=_key)


def _key(finding: Finding) -> tuple[object, ...]:
    """What tells findings apart, and their order: by their places, those that are allowed last."""
    return bool(finding.allowed), finding.file, finding.line, finding.rule, finding.subject, finding.text


def _refused(refusal: Refusal) -> Found:
    spot = Spot(refusal.file, refusal.line)
    if isinstance(refusal.error, EventNameError):
        fix = f"name it {refusal.error.suggestion}" if refusal.error.suggestion else ""
        return RULES["CH101"], Fault(refusal.error.name, names.of_refusal(refusal.error), spot, fix)
    return REFUSED, Fault(refusal.module, str(refusal.error.args[0]).rstrip("."), spot)
