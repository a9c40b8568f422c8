"""Allowances: findings that are accepted with a reason, at the line or in ``pyproject.toml``."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from choreo.check.code import File, Spot
from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.check.rules import IDLE, RULES, UNKNOWN, UNREASONED
from choreo.findings import Finding
from choreo.places import shown

_COMMENT = re.compile(r"#\s*choreo:\s*allow\s+(?P<codes>CH\w+(?:[\s,]+CH\w+)*)(?:\s+because\s+(?P<reason>\S.*))?")

#: What was found, with its rule.
Found = tuple[Rule, Fault]


@dataclass(frozen=True)
class Comment:
    """``# choreo: allow CH203 because ...``, for one code."""

    file: str
    line: int
    code: str
    reason: str


def comments_of(file: File) -> Iterator[Comment]:
    """The allowances in the comments of a file. Not those in texts."""
    if "choreo:" not in file.text:
        return
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(file.text).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    for token in tokens:
        found = _COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
        if found:
            for code in re.findall(r"CH\w+", found["codes"]):
                yield Comment(file.path, token.start[0], code, (found["reason"] or "").strip())


class Allowing:
    """The allowances of a platform. It notes which of them were used."""

    def __init__(self, platform: Platform) -> None:
        self._settings, self._code = platform.settings, platform.code
        self._comments = {file.path: list(comments_of(file)) for file in platform.sources()}
        #: The files that are checked as a whole.
        self._checked = tuple(self._comments)
        self._used: set[object] = set()

    def applied(self, found: Iterable[Found]) -> Iterator[Finding]:
        """The findings, with the reason of those that are allowed."""
        for rule, fault in found:
            finding = rule.finding(fault)
            yield replace(finding, allowed=self._reason(finding, fault.spot))

    def _reason(self, finding: Finding, spot: Spot) -> str:
        comments = [one for one in self._in(spot.file) if one.code == finding.rule and spot.covers(one.line)]
        allow = [one for one in self._settings.allow if one.fits(finding.rule, finding.subject, finding.file)]
        self._used |= {*comments, *allow}
        reasons = [*(comment.reason for comment in comments), *(allowance.reason for allowance in allow)]
        return max(reasons, key=len, default="")

    def _in(self, path: str) -> list[Comment]:
        """The comments of a file, which may be one that is not checked as a whole, such as that of an event."""
        if path not in self._comments:
            file = self._code.file(path) if path else None
            self._comments[path] = list(comments_of(file)) if file else []
        return self._comments[path]

    def faults(self) -> Iterator[Found]:
        """What is wrong with the allowances themselves. Ask after all findings were `applied`."""
        config = shown(self._settings.file) if self._settings.file else "pyproject.toml"
        for comment in (one for path in self._checked for one in self._comments[path]):
            spot = Spot(comment.file, comment.line)
            yield from self._faults(comment, f"allow {comment.code}", comment.code, comment.reason, spot)
        for allowance in self._settings.allow:
            subject = f"allow {allowance.code} where {allowance.where}"
            yield from self._faults(allowance, subject, allowance.code, allowance.reason, Spot(config))

    def _faults(self, one: object, subject: str, code: str, reason: str, spot: Spot) -> Iterator[Found]:
        if code not in RULES:
            yield UNKNOWN, Fault(subject, "there is no such rule", spot)
        elif one not in self._used:
            yield IDLE, Fault(subject, "no finding fits it", spot)
        elif not reason:
            yield UNREASONED, Fault(subject, "it gives no reason, so the finding stays", spot)
