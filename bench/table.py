"""Results as tables: figures, ratios to choreo in the same repetition, and faults in place of a figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.figures import middle, ratios, spread
from bench.results import Result


@dataclass(frozen=True)
class Column:
    """One column: the name of its figure in the results, and its head in the table."""

    figure: str
    head: str
    digits: int = 0


@dataclass(frozen=True)
class Section:
    """One table. ``compared`` is the figure of the ratio, which ``less_is_better`` inverts."""

    scenario: str
    title: str
    columns: tuple[Column, ...]
    compared: str = ""
    less_is_better: bool = False


class Figures:
    """All results, by scenario and side."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            self._results.setdefault((result.scenario, result.side), []).append(result)

    def sides(self, scenario: str) -> list[str]:
        """Return the sides with results of a scenario."""
        return [side for name, side in self._results if name == scenario]

    def scenarios(self) -> list[str]:
        """Return all scenarios."""
        return list(dict.fromkeys(scenario for scenario, _ in self._results))

    def of(self, scenario: str, side: str) -> list[Result]:
        """Return the results of a side."""
        return self._results.get((scenario, side), [])

    def values(self, scenario: str, side: str, figure: str) -> dict[int, float]:
        """Return the figure of each repetition without a fault: repetition → figure."""
        found = self.of(scenario, side)
        return {r.repetition: r.figures[figure] for r in found if not r.fault and figure in r.figures}

    def median(self, scenario: str, side: str, figure: str) -> float | None:
        """Return the median of a figure; None without results."""
        return middle(list(self.values(scenario, side, figure).values()))

    def ratio(self, scenario: str, side: str, figure: str, less_is_better: bool = False) -> float | None:
        """Return how many times better choreo is, on the same broker and pool, as the median over repetitions."""
        ours = self.values(scenario, counterpart(side, self.sides(scenario)), figure)
        theirs = self.values(scenario, side, figure)
        return middle(ratios(theirs, ours) if less_is_better else ratios(ours, theirs))

    def fault(self, scenario: str, side: str) -> str:
        """Return the first fault; '' if there is none."""
        return next((result.fault for result in self.of(scenario, side) if result.fault), "")


def counterpart(side: str, sides: Sequence[str]) -> str:
    """Return the choreo side to compare with: the same broker and pool, else the same broker and the solo pool."""
    _, broker, *pool = side.split("/")
    same = "/".join(("choreo", broker, *pool))
    return same if same in sides else f"choreo/{broker}/solo"


def render(section: Section, figures: Figures) -> str:
    """Return a markdown table of one scenario; '' without results."""
    sides = figures.sides(section.scenario)
    if not sides:
        return ""
    heads = ["side", *(column.head for column in section.columns)]
    heads += ["choreo is … times better"] if section.compared else []
    heads.append("runs")
    lines = [f"### {section.title}", "", _row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    lines += [_row(_cells(section, figures, side, len(heads))) for side in sides]
    return "\n".join(lines) + "\n"


def _cells(section: Section, figures: Figures, side: str, width: int) -> list[str]:
    runs = figures.of(section.scenario, side)
    good = [run for run in runs if not run.fault]
    fault = figures.fault(section.scenario, side)
    name = f"**{side}**" if side.startswith("choreo/") else side
    if not good:
        return [name, f"**{fault}**", *[""] * (width - 3), f"0 of {len(runs)}"]
    cells = [name]
    for column in section.columns:
        cells.append(number(figures.median(section.scenario, side, column.figure), column.digits))
    if section.compared:
        cells.append(_ratio(section, figures, side))
    repeated = sum(run.repeated for run in runs)
    notes = [f"{len(good)} of {len(runs)}" if len(good) < len(runs) else str(len(runs))]
    notes += [f"**{fault}**"] if fault else []
    notes += [f"{repeated} repeated"] if repeated and not fault else []
    wide = spread(list(figures.values(section.scenario, side, section.compared).values()))
    notes += [f"±{wide / 2:.0%}"] if wide is not None else []
    return [*cells, ", ".join(notes)]


def _ratio(section: Section, figures: Figures, side: str) -> str:
    if side.startswith("choreo/"):
        return ""
    ratio = figures.ratio(section.scenario, side, section.compared, section.less_is_better)
    return "-" if ratio is None else f"**{ratio:.1f}**"


def number(value: float | None, digits: int = 0) -> str:
    """Format a figure: 1,234. None becomes "-"."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_PUBLISH = (
    Column("per_second", "events/s"),
    Column("wall_us", "wall µs"),
    Column("cpu_us", "publisher CPU µs"),
    Column("broker_us", "broker CPU µs"),
)
_WORK = (Column("worker_cpu_us", "workers' CPU µs"), Column("broker_cpu_us", "broker CPU µs"))
_QUIET = tuple(
    Column(f"{name}_{share}_ms", f"{label} {share}, ms", 1)
    for name, label in (("hop", "one hop"), ("flow", "whole flow"))
    for share in ("p50", "p99")
)
_DRAIN = "Fan-out to four services, a backlog of published events: handler executions per second"
_KILLED = "A worker is killed (SIGKILL) in the middle of its backlog and replaced: are all events handled?"

SECTIONS = (
    Section("publish to 1 queue", "Publishing to one queue, without consumers", _PUBLISH, "wall_us", True),
    Section("publish to 4 queues", "Publishing one event to four queues, without consumers", _PUBLISH, "wall_us", True),
    Section("drain", _DRAIN, (Column("per_second", "executions/s"), *_WORK), "per_second"),
    Section(
        "steady",
        "Fan-out to four services while events are published: handler executions per second",
        (Column("per_second", "executions/s"), *_WORK, Column("publish_cpu_us", "publisher CPU µs per event")),
        "per_second",
    ),
    Section(
        "flow",
        "Whole order flow with a join, publish to notification: orders per second",
        (Column("per_second", "orders/s"), *_WORK),
        "per_second",
    ),
    Section("join", "Joins of two events: joins per second", (Column("per_second", "joins/s"), *_WORK), "per_second"),
    Section("quiet", "Latency at 20 orders per second", (*_QUIET, *_WORK), "flow_p99_ms", True),
    Section(
        "killed worker",
        _KILLED,
        (
            Column("all_handled_after_s", "all handled after, s", 1),
            Column("not_back", "not back 25 s after the last one"),
        ),
    ),
)


def past_queues(figures: Figures) -> str:
    """Return the table of publishing past bound queues that do not match."""
    scenarios = [name for name in figures.scenarios() if name.startswith("publish past")]
    if not scenarios:
        return ""
    heads = ["side", *(f"{name.split()[2]} bound" for name in scenarios), "last / first"]
    lines = [
        "### Publishing to one queue past bound queues that do not match: wall µs per event",
        "",
        _row(heads),
        _row(["---", *["---:"] * (len(heads) - 1)]),
    ]
    for side in figures.sides(scenarios[0]):
        medians = [figures.median(name, side, "wall_us") for name in scenarios]
        growth = medians[-1] / medians[0] if medians[0] and medians[-1] else None
        lines.append(_row([side, *(number(value) for value in medians), number(growth, 2)]))
    return "\n".join(lines) + "\n"


def memory(figures: Figures) -> str:
    """Return the table of bytes and costs as the data in Redis grows."""
    scenarios = [name for name in figures.scenarios() if name.startswith("memory per")]
    if not scenarios:
        return ""
    heads = ["", "bytes in Redis each", "worker CPU µs each", "Redis CPU µs each"]
    lines = ["### Memory and cost as they grow (choreo, Redis, solo)", "", _row(heads), _row(["---", *["---:"] * 3])]
    for name in scenarios:
        sides = figures.sides(name)
        for side in sides:
            cells = [figures.median(name, side, figure) for figure in ("bytes", "worker_cpu_us", "broker_cpu_us")]
            problem = figures.fault(name, side)
            what = name.removeprefix("memory ") + (f", {side}" if len(sides) > 1 else "")
            lines.append(_row([what, problem or number(cells[0]), *map(number, cells[1:])]))
    return "\n".join(lines) + "\n"


def tables(results: Sequence[Result]) -> str:
    """Return all tables that have results."""
    figures = Figures(results)
    parts = [render(section, figures) for section in SECTIONS]
    return "\n".join(part for part in [*parts, past_queues(figures), memory(figures)] if part)
