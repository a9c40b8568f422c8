"""`choreo check`: finds in the code what makes a choreography hard to run, to change and to understand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from choreo.cli import completion
from choreo.cli.app import say, tell
from choreo.cli.findings import fail_on_option, format_option, print_findings
from choreo.cli.folding import wrap
from choreo.errors import ChoreoError

if TYPE_CHECKING:
    from choreo.check.rule import Rule
    from choreo.findings import Finding

#: The page about the rules, with a heading for each.
DOCS = "https://github.com/celery-choreo/celery-choreo/blob/main/docs/check.md"


@click.command("check")
@click.argument("targets", nargs=-1, metavar="[PACKAGE|APP]...", shell_complete=completion.packages)
@format_option
@fail_on_option
@click.option("--list", "is_list", is_flag=True, help="List the rules.")
@click.option("--explain", metavar="CODE", help="Explain one rule.")
def check(targets: tuple[str, ...], form: str, fail_on: str, is_list: bool, explain: str | None) -> None:
    """
    Find what makes a choreography fragile.

    It reads the code, and asks no broker. A PACKAGE is checked as a whole; an APP is named as for `celery -A`, with a
    colon. The default is the only package in this directory. Budgets and allowances are in pyproject.toml under
    [tool.choreo.check].

    \b
    choreo check shop                    the services of a package
    choreo check shop --format github    annotations in a pull request
    choreo check --explain CH501         why a rule is one

    Exit code: 0 if nothing was found that counts, 1 if so, 2 if the code cannot be checked.
    """
    from choreo.check.rules import RULES

    if explain is not None:
        _explain(_known(RULES, explain))
    elif is_list:
        for rule in RULES.values():
            say(f"{rule.code}  {rule.level:7}  {rule.summary}")
    else:
        findings = _found(targets)
        print_findings(
            findings, form, tool="choreo check", rules={one.code: one.summary for one in RULES.values()}, docs=DOCS
        )
        if form == "text":
            _conclude(findings)
        click.get_current_context().exit(any(finding.fails(fail_on) for finding in findings))


def _found(targets: tuple[str, ...]) -> list[Finding]:
    from choreo.check.checking import check as checked

    try:
        return checked(targets, Path.cwd())
    except ChoreoError as error:  # of the settings, or of code that cannot be imported
        raise click.UsageError(str(error)) from error


def _conclude(findings: list[Finding]) -> None:
    allowed = sum(bool(finding.allowed) for finding in findings)
    counted = len(findings) - allowed
    besides = f", {allowed} allowed" if allowed else ""
    if counted:
        tell(f"{counted} found{besides}. `choreo check --explain {findings[0].rule}` says why.")
    else:
        tell(f"Nothing was found{besides}.")


def _known(rules: dict[str, Rule], code: str) -> Rule:
    if code.upper() not in rules:
        raise click.UsageError(f"There is no rule {code!r}. `choreo check --list` shows all.")
    return rules[code.upper()]


def _explain(rule: Rule) -> None:
    say(f"{rule.code} ({rule.level}): {rule.summary}")
    for label, text in (("Why: ", rule.why), ("Way out: ", rule.fix)):
        for line in wrap(f"{label}{text}", 80, "    "):
            say(line)
    say(f"To accept one: `# choreo: allow {rule.code} because ...` at its line.")
