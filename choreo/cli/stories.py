"""`choreo stories`: lists and shows pending stories, and forgets one."""

import shlex
from collections.abc import Iterator
from datetime import datetime

import click

from choreo.cli import completion
from choreo.cli.app import check_names, say, shown_moment, speaking, tell, tell_undeclared
from choreo.cli.folding import keyed
from choreo.cli.group import Group
from choreo.cli.paging import rows
from choreo.cli.quiet import unlogged
from choreo.cli.verdict import wrapped
from choreo.cli.where import connecting
from choreo.observe.words import span
from choreo.operate.stories import PendingStory, Stories
from choreo.printing import one_line
from choreo.service import Service

_ROW = "{:<20}  {:<7}  {:<33}  {}"
_of_story = click.option(
    "--story",
    "name",
    metavar="NAME",
    help="The story, if KEY has several.",
    shell_complete=completion.services_and_handlers,
)


@click.group("stories", cls=Group)
@connecting
def stories() -> None:
    """List the stories that have not ended, overdue ones first. Show one, or forget it."""


@stories.command("list")
@click.argument("names", nargs=-1, metavar="[NAME|SERVICE]...", shell_complete=completion.services_and_handlers)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="The most stories to list of each name. 0: no limit.",
)
@click.option("--after", metavar="PLACE", help="Continue an earlier list of one NAME.")
@click.option("--overdue", "only_overdue", is_flag=True, help="Only overdue stories. Exit with 1 if there are any.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def list_(
    app: Service, names: tuple[str, ...], limit: int, after: str | None, only_overdue: bool, as_json: bool
) -> None:
    """List pending stories, overdue ones first: all of them, or those of the given names or services."""
    handlers = _chosen(app, names)
    if after and len(handlers) != 1:
        raise click.UsageError("--after continues the list of one NAME. Name it.")
    pending, is_any_overdue = [], False
    for number, handler in enumerate(handlers):
        if not as_json:
            say(("\n" if number else "") + _headline(app.stories, handler))
        count = 0
        listed = _rows(app.stories, handler, limit, after or "", only_overdue)
        for count, (story, place) in enumerate(listed, start=1):
            if not as_json and count == 1:
                say(_ROW.format("KEY", "STEP", "WAITS FOR", "DUE (UTC)"))
            say(story.to_json() if as_json else _row(story))
            is_any_overdue |= story.overdue
            if place:
                more = f"choreo stories list {handler} --limit {limit} --after {shlex.quote(place)}"
                say(f"More: {more}", err=as_json)
        if not count and not as_json:
            say(f"  nothing {'overdue' if only_overdue else 'more' if after else 'pending'}")
        pending += [handler] * bool(count)
    tell_undeclared(app, pending)
    if only_overdue and is_any_overdue:
        raise SystemExit(1)


@stories.command()
@click.argument("key", metavar="KEY")
@_of_story
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def show(app: Service, key: str, name: str | None, as_json: bool) -> None:
    """Show the pending stories of KEY: the events that have come, and those that are missing."""
    found = app.stories.find(key, name) or [app.stories.get(key, name)]
    for number, story in enumerate(found):
        say(story.to_json() if as_json else ("\n" if number else "") + _explained(story))
    tell_undeclared(app, [story.handler for story in found])


@stories.command()
@click.argument("key", metavar="KEY")
@_of_story
@click.option("--reason", help="The reason, for `choreo repairs`. It is asked for if it is left out.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
def forget(app: Service, key: str, name: str | None, reason: str | None, yes: bool) -> None:
    """Forget the story of KEY: it is listed no more, and later events of KEY are ignored."""
    story = app.stories.get(key, name)
    if not yes:
        say(wrapped(f"{story.handler} {one_line(key)}: {_progress(story)}.", "  "))
    # Not by click: it would ask before it has looked at the rest of the command line.
    reason = click.prompt("Why") if reason is None else reason
    if yes or click.confirm("Forget the story for good?"):
        with unlogged("choreo.operate.joins"):
            app.stories.forget(key, reason, story.handler)
        say(wrapped(f"{story.handler} {one_line(key)}: forgotten.", "  "))


def _chosen(app: Service, names: tuple[str, ...]) -> list[str]:
    known = app.stories.handlers
    services = {name.partition(".")[0] for name in app.runtime.store.handlers()}
    check_names(app, names, [*known, *(handler.partition(".")[2] for handler in known), *services], "story or service")
    for name in names:
        if not app.stories.named(name):
            tell(f"{name} has no stories.")
    if not known and not names:
        tell("No stories are known. A service makes its stories known when its worker starts.")
    return app.stories.named(*names)


def _rows(
    stories: Stories, handler: str, limit: int, after: str, only_overdue: bool
) -> Iterator[tuple[PendingStory, str]]:
    """Iterate over pending stories with a cursor: see `rows`."""

    def page(most: int, place: str) -> tuple[list[PendingStory], str]:
        found = stories.page(handler, most, place)
        wanted = [story for story in found.stories if story.overdue or not only_overdue]
        # Overdue stories come first, so nothing is left behind one that is not.
        return wanted, found.after if len(wanted) == len(found.stories) else ""

    return rows(page, limit, after)


def _headline(stories: Stories, handler: str) -> str:
    counts = {name.replace("_", " "): count for name, count in stories.counts(handler).items() if count}
    so_far = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return handler + (f"\n  so far: {so_far}" if so_far else "")


def _row(story: PendingStory) -> str:
    due = f"{span(story.overdue_by.total_seconds())} ago" if story.overdue else shown_moment(story.until, "%m-%d %H:%M")
    waits_for = _short(one_line(story.waits_for), 33)
    return keyed(_ROW, one_line(story.key), 20, f"{story.step} of {story.steps}", waits_for, due)


def _progress(story: PendingStory) -> str:
    """The course of the story in one line: ``step 4 of 7, waiting for driver.assigned, overdue by 3 min``."""
    told = f"step {story.step} of {story.steps}, waiting for {one_line(story.waits_for)}"
    if story.since is None:
        return f"not begun: only other events have come, {told}"
    return f"{told}, overdue by {span(story.overdue_by.total_seconds())}" if story.overdue else told


def _explained(story: PendingStory) -> str:
    lines = [f"{story.handler} {one_line(story.key)}", wrapped(f"  {_progress(story)}", "  ")]
    facts = [("began", _moment(story.since))] if story.since else []
    facts.append(("due", _moment(story.until)))
    if story.missing:
        facts.append(("ends with", " or ".join(map(one_line, story.ends))))
    lines += [wrapped(f"  {name + ':':<11}{fact}", " " * 13) for name, fact in facts]
    lines.append("  came:")
    for one in story.arrived:
        event = one.envelope
        note = "" if one.counts else "  (it does not count any more)"
        lines.append(f"    {event.time:%m-%d %H:%M:%S}  {one_line(event.type)}{note}")
        lines.append(f"                    id {one_line(event.id)}, from {one_line(event.source)}")
    return "\n".join(lines)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
