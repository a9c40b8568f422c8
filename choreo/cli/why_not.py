"""`choreo why-not`: why an event has not been announced about an order."""

import shlex

import click

from choreo.cli import completion
from choreo.cli.app import check_named, say, speaking
from choreo.cli.verdict import say_steps, say_verdict, wrapped
from choreo.events.naming import is_type
from choreo.observe.cause import Cause, Weight
from choreo.observe.why_not import Finding, WhyNot
from choreo.printing import one_line
from choreo.service import Service

#: The names of causes that a place without any service has.
_STRANGE = ("nobody announces it", "another namespace")


@click.command("why-not")
@click.argument("event_type", metavar="TYPE", shell_complete=completion.event_types)
@click.argument("subject", metavar="SUBJECT|ID", shell_complete=completion.subjects)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@speaking
def why_not(app: Service, event_type: str, subject: str, as_json: bool) -> None:
    """
    Say why an event has not been announced.

    Such as: choreo why-not driver.assigned ORD-1. Walks from the handlers that announce it back to the first thing that
    did not happen. It ends in one CAUSE, and in the next steps to DO: a command in each line, for a shell.

    The exit code is 0 if the event was announced, and 1 if not.
    """
    check_named(subject)
    if not is_type(event_type) and is_type(subject):
        raise click.UsageError(
            f"{event_type!r} is not an event type. Did you mean `choreo why-not {subject} {shlex.quote(event_type)}`?"
        )
    answer = app.observe.why_not(event_type, subject)
    if answer.cause.name in _STRANGE and not app.observe.map().services:
        raise click.ClickException(_empty(app, answer.cause))
    if as_json:
        say(answer.to_json())
    else:
        _print(answer)
    if answer.cause.weight is not Weight.DONE:
        click.get_current_context().exit(1)


def _empty(app: Service, cause: Cause) -> str:
    """That nobody is here; and who knows of it in another namespace."""
    text = f"No service is known at {app.runtime.place()}."
    if cause.name != "another namespace":
        return text
    return "\n".join([f"{text} {cause.text}.", *(f"      {step}" for step in cause.do)])


def _print(answer: WhyNot) -> None:
    for finding in answer.findings:
        say(_row(finding))
    _conclude(answer)


def _conclude(answer: WhyNot) -> None:
    end = "" if answer.cause.text.endswith("?") else "."
    say_verdict(f"CAUSE {answer.cause.text}{end}", answer.cause.weight)
    say_steps(answer.cause.do)
    for note in answer.notes:
        say(wrapped(f"NOTE  {note}", "      "))


def _row(finding: Finding) -> str:
    mark = {True: "yes", False: "NO", None: ""}[finding.is_met]
    indent = "  " * min(finding.depth, 8)
    text = one_line(f"{mark:<4} {finding.what}  {finding.text}")
    return wrapped(f"{indent}{text}", f"{indent}       ")
