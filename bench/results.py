"""Results as JSON lines: one per scenario, side and repetition. An interrupted run can be continued."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.marks import Tally
from bench.session import Row
from bench.side import Side

DIRECTORY = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Result:
    """One line of a journal."""

    scenario: str
    side: str
    repetition: int
    figures: dict[str, float] = field(default_factory=dict)
    expected: int = 0
    lost: int = 0
    repeated: int = 0
    problem: str = ""
    promise: str = ""
    once: bool = False
    load: float = 0.0

    @classmethod
    def of(cls, row: Row, side: Side, repetition: int) -> "Result":
        """Return the result of a measured row."""
        tally: Tally = row.tally
        return cls(
            scenario=row.scenario,
            side=side.name,
            repetition=repetition,
            figures={name: round(value, 3) for name, value in row.figures.items()},
            expected=tally.expected,
            lost=tally.lost,
            repeated=tally.repeated,
            problem=row.problem,
            promise=side.promise,
            once=side.once,
            load=round(os.getloadavg()[0], 2),
        )

    @property
    def fault(self) -> str:
        """Why the figures do not count; '' if they do."""
        if self.problem:
            return "failed"
        if self.lost:
            return f"lost {self.lost:,} of {self.expected:,}"
        if self.repeated and self.once:
            return f"repeated {self.repeated:,} of {self.expected:,}"
        return ""


class Journal:
    """A file of results. Its first line describes the machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def begin(cls, kind: str, facts: dict[str, Any]) -> "Journal":
        """Begin a new file. ``kind`` is "all", "quick", "peers", "rabbitmq", "costs" or "some"."""
        DIRECTORY.mkdir(exist_ok=True)
        journal = cls(DIRECTORY / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{kind}.jsonl")
        journal.path.write_text(json.dumps({"facts": facts}) + "\n")
        return journal

    @classmethod
    def latest(cls, kind: str) -> "Journal | None":
        """Return the last journal of this kind; None if there is none."""
        files = sorted(DIRECTORY.glob(f"*-{kind}.jsonl"))
        return cls(files[-1]) if files else None

    def add(self, result: Result) -> None:
        """Append a result."""
        with self.path.open("a") as file:
            file.write(json.dumps(result.__dict__) + "\n")

    def facts(self) -> dict[str, Any]:
        """Return the description of the machine, as `machine` made it."""
        for line in self._lines():
            if "facts" in line:
                return dict(line["facts"])
        return {}

    def results(self) -> list[Result]:
        """Return all results."""
        return [Result(**line) for line in self._lines() if "scenario" in line]

    def _lines(self) -> Iterable[dict[str, Any]]:
        for text in self.path.read_text().splitlines():
            # A killed run may have left half a line.
            try:
                yield json.loads(text)
            except ValueError:
                continue


def machine(brokers: Iterable[str]) -> dict[str, Any]:
    """Return the facts on which figures depend: date, processor, versions and command line."""
    packages = ("choreo", "celery", "kombu", "redis", "hiredis", "amqp", "pydantic")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "brokers": list(brokers),
        "versions": versions,
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
