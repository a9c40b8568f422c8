"""The plot: bars of handler executions, orders and joins per second, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.table import Figures, number

_WIDTH, _LABEL, _BAR, _GAP = 860, 210, 16, 5
_LEFT, _RIGHT = _LABEL + 12, 100
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 14px; font-weight: 600; }
  .note { fill: #57606a; }
  .ours { fill: #1a7f64; } .other { fill: #9aa7b4; }
  .strong { font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .note { fill: #8b949e; } .ours { fill: #3fb68b; } .other { fill: #59636e; }
  }
"""


@dataclass(frozen=True)
class Bar:
    """The figure of one side."""

    label: str
    value: float | None
    #: Why there is no value.
    note: str = ""
    #: True if bars are grouped by pool.
    by_pool: bool = True

    @property
    def group(self) -> tuple[bool, str]:
        """The group of the bar: its broker and, with ``by_pool``, its pool. A group is drawn without a gap."""
        _, broker, *pool = self.label.split("/")
        return broker == "rabbitmq", pool[0] if pool and self.by_pool else ""

    @property
    def is_ours(self) -> bool:
        """True for choreo."""
        return self.label.startswith("choreo")


@dataclass(frozen=True)
class Panel:
    """Bars on one scale, with a title."""

    title: str
    bars: Sequence[Bar]


#: Scenario, title and pools of each panel. Only the first shows every pool; the others show the cheapest.
PANELS = (
    ("drain", "Fan-out to four services: handler executions per second", ("solo", "threads", "prefork")),
    ("flow", "Whole order flow with a join: orders per second", ("solo",)),
    ("join", "Joins of two events per second", ("solo",)),
)


def panels(figures: Figures) -> list[Panel]:
    """Return the panels of the plot. A side that lost events has a note in place of a bar."""
    found = []
    for scenario, title, pools in PANELS:
        sides = figures.sides(scenario)
        by_pool = all(side.count("/") == 2 for side in sides)
        bars = [
            Bar(side, figures.median(scenario, side, "per_second"), figures.fault(scenario, side), by_pool)
            for side in sides
            # A peer has no pool in its name, except celery-pubsub, which needs prefork.
            if len(side.split("/")) < 3 or side.split("/")[2] in pools or side.startswith("celery-pubsub")
        ]
        if bars:
            # Sorted by group, choreo first in each.
            found.append(Panel(title, sorted(bars, key=lambda bar: (bar.group, not bar.is_ours))))
    return found


def draw(groups: Sequence[Panel], caption: str) -> str:
    """Return the SVG."""
    parts: list[str] = []
    y = 12
    for panel in groups:
        y += 18
        parts.append(f'<text class="title" x="0" y="{y}">{escape(panel.title)}</text>')
        y += 10
        largest = max((bar.value or 0 for bar in panel.bars), default=0) or 1
        group = panel.bars[0].group if panel.bars else None
        for bar in panel.bars:
            y += 8 if bar.group != group else 0
            group = bar.group
            parts.append(_bar(bar, y, (bar.value or 0) / largest))
            y += _BAR + _GAP
        y += 10
    parts.append(f'<text class="note" x="0" y="{y + 10}">{escape(caption)}</text>')
    height = y + 20
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img">\n<title>choreo beside other ways</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n'
    )


def _bar(bar: Bar, y: int, share: float) -> str:
    length = round((_WIDTH - _LEFT - _RIGHT) * share, 1)
    kind, strong = ("ours", " strong") if bar.is_ours else ("other", "")
    base = y + _BAR - 4
    value = number(bar.value) if bar.value is not None else bar.note or "not measured"
    return (
        f'<text class="label{strong}" x="{_LABEL}" y="{base}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{max(length, 1)}" height="{_BAR}" rx="2"/>'
        f'<text class="value{strong}" x="{_LEFT + length + 6}" y="{base}">{escape(value)}</text>'
    )
