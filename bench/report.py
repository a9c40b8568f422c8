"""Writes the results into README.md, between its markers, and the plots as SVG files."""

from pathlib import Path
from typing import Any

from bench import plot, side, table
from bench.results import Journal

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- results: written by `python -m bench --report` -->", "<!-- end of results -->"


def write(own: Journal | None, peers: Journal | None, rabbitmq: Journal | None = None) -> list[Path]:
    """
    Write the results of a run beside Celery, of one beside other libraries, and of one on RabbitMQ beside all.

    Returns the written files.
    """
    if own is None and peers is None and rabbitmq is None:
        raise SystemExit("There are no results yet. Run `python -m bench` first.")
    readme = FOLDER / "README.md"
    written, parts = [readme], []
    for journal, title, picture in (
        (own, "## Beside Celery without choreo", "results.svg"),
        (peers, "## Beside other libraries", "peers.svg"),
        (rabbitmq, "## On RabbitMQ, beside all", "rabbitmq.svg"),
    ):
        if journal is not None:
            results, facts = journal.results(), journal.facts()
            caption = f"{_machine(facts)}. Longer is better."
            (FOLDER / picture).write_text(plot.draw(plot.panels(table.Figures(results)), caption))
            written.append(FOLDER / picture)
            parts += [title, _facts(facts), f"![Bars: choreo and the others]({picture})", table.tables(results).strip()]
    readme.write_text(replace(readme.read_text(), "\n\n".join([*parts, promises()])))
    return written


def replace(text: str, results: str) -> str:
    """Return the README with these results between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"bench/README.md has lost its markers {BEGIN!r} and {END!r}. Restore them.")
    return f"{before}{BEGIN}\n\n{results.strip()}\n\n{END}{after}"


def promises() -> str:
    """Return the table of promises. A side that promises more does more work for each event."""
    lines = ["## What each side promises", "", "| side | promise | processes or threads, prefetch |", "|---|---|---|"]
    for one in (*side.OWN, *side.CHORDS, *side.PEERS, *side.CONFIRMED):
        setting = f"{one.concurrency} per service, prefetch {one.prefetch}"
        lines.append(f"| {one.name} | {side.PROMISES[one.promise]} | {setting} |")
    return "\n".join(lines)


def _facts(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    return (
        f"Measured on {facts.get('date', '?')} with `{facts.get('command', '?')}`: {_machine(facts)}; "
        f"{facts.get('system', '?')}; {versions}."
    )


def _machine(facts: dict[str, Any]) -> str:
    brokers = ", ".join(facts.get("brokers", []))
    processor = f"{facts.get('cores', '?')} cores of {facts.get('processor', '?')}"
    return f"{processor}, Python {facts.get('python', '?')}, {brokers}"
