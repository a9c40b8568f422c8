"""Prints findings: for people, as JSON, and for the tools of CI: annotations of GitHub, JUnit and SARIF."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import click

from choreo import __version__
from choreo.cli.app import say
from choreo.cli.folding import wrap
from choreo.cli.tables import WIDTHS
from choreo.findings import ERROR, LEVELS, NOTE, WARNING, Finding
from choreo.printing import json_line, one_line

#: The schema of SARIF 2.1.0, an OASIS standard.
_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: The words of the levels, for people and in GitHub's annotations.
_WORDS = {ERROR: "ERROR", WARNING: "WARN", NOTE: "note"}
_GITHUB = {ERROR: "error", WARNING: "warning", NOTE: "notice"}


def print_findings(
    findings: Sequence[Finding],
    form: str,
    *,
    tool: str,
    rules: Mapping[str, str],
    words: Mapping[str, str] | None = None,
    docs: str = "",
) -> None:
    """
    Print the findings in one of `FORMATS`.

    ``tool`` is the command, such as "choreo check"; ``rules`` are the ids of its rules with a summary of each.
    ``words`` are the first words of a line for people, by level or by rule. ``docs`` is the address of a page with a
    heading for each rule.
    """
    _FORMS[form](findings, _Report(tool, rules, {**_WORDS, **(words or {})}, docs))


class _Report:
    """What the formats need to know beside the findings."""

    def __init__(self, tool: str, rules: Mapping[str, str], words: Mapping[str, str], docs: str) -> None:
        self.tool, self.rules, self.words, self.docs = tool, rules, words, docs

    def word(self, finding: Finding) -> str:
        """The word that begins a line for people."""
        return "allowed" if finding.allowed else self.words.get(finding.rule, self.words[finding.level])


def _text(findings: Sequence[Finding], report: _Report) -> None:
    for finding in findings:
        for line in _lines(finding, report):
            say(line)


def _lines(finding: Finding, report: _Report) -> list[str]:
    """The parts of a finding, with points between them, in lines of 80 columns at most."""
    parts = [f"{report.word(finding)} {finding.subject}: {finding.text}"]
    parts += [f"fix: {finding.fix}"] * bool(finding.fix) + [f"allowed: {finding.allowed}"] * bool(finding.allowed)
    parts += [finding.place] * bool(finding.place) + [f"[{finding.rule}]"]
    return wrap(one_line(" · ".join(parts)), WIDTHS[0], "    ")


def _json(findings: Sequence[Finding], report: _Report) -> None:  # noqa: ARG001 - the signature of every format
    for finding in findings:
        say(json_line(finding.to_dict()))


def _github(findings: Sequence[Finding], report: _Report) -> None:
    """Workflow commands of GitHub Actions, which show a finding beside the line of the code."""
    for finding in findings:
        level = "notice" if finding.allowed else _GITHUB[finding.level]
        place = {"file": finding.file, "line": finding.line or "", "title": f"{report.tool}: {finding.rule}"}
        properties = ",".join(f"{name}={_property(str(value))}" for name, value in place.items() if value)
        say(f"::{level} {properties}::{_escaped(_sentence(finding))}")


def _escaped(text: str) -> str:
    # GitHub's toolkit: packages/core/src/command.ts.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _sentence(finding: Finding) -> str:
    why = f" · fix: {finding.fix}" if finding.fix else ""
    allowed = f" · allowed: {finding.allowed}" if finding.allowed else ""
    return f"{finding.subject}: {finding.text}{why}{allowed}"


def _junit(findings: Sequence[Finding], report: _Report) -> None:
    """One test case for each rule and subject; without findings one that passes, since an empty suite is an error."""
    failed = sum(finding.fails() for finding in findings)
    counts = {"tests": str(max(len(findings), 1)), "failures": str(failed), "errors": "0"}
    skipped = {"skipped": str(sum(bool(finding.allowed) for finding in findings))}
    root = ElementTree.Element("testsuites", counts, name=report.tool)
    suite = ElementTree.SubElement(root, "testsuite", counts | skipped, name=report.tool)
    for finding in findings:
        _case(suite, finding)
    if not findings:
        ElementTree.SubElement(suite, "testcase", classname=report.tool, name="nothing was found")
    ElementTree.indent(root)
    click.echo(ElementTree.tostring(root, encoding="unicode", xml_declaration=True))


def _case(suite: ElementTree.Element, finding: Finding) -> None:
    where = {"file": finding.file, "line": str(finding.line)} if finding.file else {}
    name = one_line(f"{finding.rule}: {finding.text}")
    case = ElementTree.SubElement(suite, "testcase", where, classname=one_line(finding.subject), name=name)
    if finding.allowed:
        ElementTree.SubElement(case, "skipped", message=one_line(finding.allowed))
    elif finding.fails():
        failure = ElementTree.SubElement(case, "failure", type=finding.rule, message=one_line(finding.text))
        failure.text = one_line(_sentence(finding))
    else:
        ElementTree.SubElement(case, "system-out").text = one_line(_sentence(finding))


def _sarif(findings: Sequence[Finding], report: _Report) -> None:
    """SARIF 2.1.0, for GitHub's code scanning, GitLab and editors."""
    ids = list(dict.fromkeys([*report.rules, *(finding.rule for finding in findings)]))
    driver = {
        "name": report.tool,
        "version": __version__,
        "informationUri": "https://github.com/celery-choreo/celery-choreo",
        "rules": [_sarif_rule(rule, report) for rule in ids],
    }
    run = {"tool": {"driver": driver}, "results": [_result(finding, ids) for finding in findings]}
    say(json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2))


def _sarif_rule(rule: str, report: _Report) -> dict[str, Any]:
    described = {"id": rule, "shortDescription": {"text": report.rules.get(rule, rule)}}
    return described | ({"helpUri": f"{report.docs}#{rule}"} if report.docs else {})


def _result(finding: Finding, ids: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": ids.index(finding.rule),
        "level": finding.level,
        "message": {"text": _sentence(finding)},
        # Lines move; the rule and what it is about stay.
        "partialFingerprints": {"choreo/v1": f"{finding.rule}/{finding.subject}/{finding.text}"},
    }
    if finding.file:
        region = {"region": {"startLine": finding.line}} if finding.line else {}
        place = {"artifactLocation": {"uri": finding.file.replace("\\", "/")}} | region
        result["locations"] = [{"physicalLocation": place}]
    if finding.allowed:
        result["suppressions"] = [{"kind": "external", "justification": finding.allowed}]
    return result


_FORMS: dict[str, Callable[[Sequence[Finding], _Report], None]] = {
    "text": _text,
    "json": _json,
    "github": _github,
    "junit": _junit,
    "sarif": _sarif,
}
#: The formats, for people first.
FORMATS = tuple(_FORMS)

#: Decorator: the option --format of a command.
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="How to print it."
)
#: Decorator: the option --fail-on of a command.
fail_on_option = click.option(
    "--fail-on",
    type=click.Choice(LEVELS),
    default=ERROR,
    show_default=True,
    help="The least level that makes the exit code 1.",
)
