"""`choreo rerun`: lets a handler handle an event again."""

import json
import shlex
from typing import Any

import click

from choreo.cli import completion
from choreo.cli.app import check_named, say, speaking, tell_asleep
from choreo.cli.verdict import say_steps, wrapped
from choreo.service import Service


@click.command()
@click.argument("handler", metavar="HANDLER", shell_complete=completion.services_and_handlers)
@click.argument("what", metavar="SUBJECT|EVENT", shell_complete=completion.subjects)
@click.option("--data", metavar="JSON", help="The fields of the event, if they are kept nowhere.")
@click.option("--new-key", is_flag=True, help="A new idempotency key, and new ids for its events: all happens again.")
@click.option("--reason", default="", metavar="TEXT", help="The reason, for `choreo repairs`.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
def rerun(app: Service, handler: str, what: str, data: str | None, new_key: bool, reason: str, yes: bool) -> None:
    """
    Let HANDLER handle an event again that it has handled.

    The event is the one with this id, or the only one that it handled about SUBJECT. It runs once more in the same
    story, with all its attempts. What it does outside happens again.

    By default it has the same idempotency key, and its events the same ids: other systems that know the key, and
    listeners that have handled these events, ignore them. So only what was missing is added. With --new-key everything
    happens again.
    """
    check_named(what, "SUBJECT|EVENT")
    plan = app.reruns.plan(handler, what, _fields(data))
    if not yes:
        say(wrapped(plan.text(new_key=new_key)))
    if yes or click.confirm("Run it again?"):
        app.reruns.run(plan, new_key=new_key, reason=reason)
        if yes and plan.ended:  # otherwise the question has said it
            say(wrapped(plan.warning))
        about = f" for {plan.event.subject}" if plan.event.subject else ""
        say(wrapped(f"{plan.handler}: runs again{about}. To see it:"))
        say_steps([shlex.join(["choreo", "trace", plan.event.correlation_id])])
        tell_asleep(app, plan.handler)


def _fields(data: str | None) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--data") from error
    if not isinstance(fields, dict):
        raise click.BadParameter(f'{data} is no JSON object. Write {{"total_cents": 500}}.', param_hint="--data")
    return fields
