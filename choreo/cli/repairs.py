"""`choreo repairs`: shows what people have changed on the platform."""

import click

from choreo.cli.app import say, speaking
from choreo.cli.folding import folded
from choreo.operate.repairs import Repair
from choreo.printing import one_line
from choreo.service import Service

_ROW = "{:<11}  {:<10} {}"
#: The column in which the last field begins.
_START = 24
#: The most repairs that are listed, unless --limit says otherwise.
LIMIT = 50


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=1000),
    default=LIMIT,
    show_default=True,
    help="The most repairs to list.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def repairs(app: Service, limit: int, as_json: bool) -> None:
    """
    List what people have changed, newest first.

    Dead letters that were replayed, edited or discarded, handlers that were paused or slowed, events that
    `choreo publish --caused-by` announced, and so on: when, what, who and why. The newest 1000 are kept.
    """
    found = app.repairs.recent(limit)
    if as_json:
        for repair in found:
            say(repair.to_json())
        return
    say(_ROW.format("WHEN (UTC)", "WHAT", "OF WHAT, BY WHOM AND WHY") if found else "No repairs.")
    for repair in found:
        say(_ROW.format(f"{repair.at:%m-%d %H:%M}", one_line(repair.action), folded(_told(repair), _START)))


def _told(repair: Repair) -> str:
    how_many = f"{repair.count} of " if repair.count != 1 else ""
    note = f": {repair.reason}" if repair.reason else ""
    return one_line(f"{how_many}{repair.target} by {repair.who}{note}")
