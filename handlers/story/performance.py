"""From the empty stage to the last line, and nothing left behind."""

import os
import shutil
import sys
import time
from pathlib import Path

from choreo import ChoreoError
from choreo.local import Platform
from handlers.story import table
from handlers.story.chapters import CHAPTERS
from handlers.story.paper import Paper
from handlers.story.stage import Stage, StoryError

#: One process for each worker is enough for one order at a time, and starts sooner.
WORKER_OPTIONS = ("--concurrency", "1")


def perform() -> int:
    """Start everything, tell every chapter, count, and stop everything. Returns the exit code."""
    paper = Paper()
    began_at = time.monotonic()
    try:
        platform = Platform("handlers", worker_options=WORKER_OPTIONS)
        try:
            _play(platform, paper)
        except KeyboardInterrupt:
            paper.words("\nInterrupted. Stopping everything ...")
            _close(platform)
            paper.words(" done, nothing is left running.", end=True)
            return 130
        finally:
            _close(platform)
    except (StoryError, ChoreoError) as error:
        _confess(paper, error)
        return 1
    paper.prose(f"The end. Everything is stopped, and nothing is left running ({time.monotonic() - began_at:.0f} s).")
    paper.prose()
    paper.prose("This keeps the platform up until Ctrl-C, for you to play with:")
    # Not clipped like other lines: it is there to be copied.
    paper.words(f"    {choreo_command()} up handlers --flower", end=True)
    return 0


def choreo_command() -> str:
    """How the `choreo` beside this Python is called from here: by its name, if that is what PATH finds."""
    script = Path(sys.executable).with_name("choreo")
    on_path = shutil.which("choreo")
    if not script.exists() or (on_path is not None and Path(on_path).resolve() == script.resolve()):
        return "choreo"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)


def _close(platform: Platform) -> None:
    """Let the workers finish what they have begun, unless Ctrl-C is pressed once more."""
    try:
        platform.close()
    except KeyboardInterrupt:
        platform.close(force=True)


def _confess(paper: Paper, error: Exception) -> None:
    paper.prose()
    paper.prose("The story did not come out as it is told:", colour="red")
    for line in str(error).splitlines():
        # What is indented is the end of a log.
        if line.startswith("  "):
            paper.verbatim([line.strip()])
        else:
            paper.prose(line)


def _play(platform: Platform, paper: Paper) -> None:
    paper.prose("Starting an embedded server, a Celery worker for each service, and Flower.")
    platform.open()
    _point_here(platform)
    stage = Stage(platform, paper)
    stage.start()
    flower = platform.start_flower()
    paper.words(" flower", end=True)
    stage.observer.start()
    try:
        _introduce(paper, flower)
        for chapter in CHAPTERS:
            chapter(stage)
        _count(stage)
    finally:
        stage.observer.stop()


def _point_here(platform: Platform) -> None:
    """Let this process and the workers use the platform's own server, and a folder that goes when it goes."""
    os.environ.update(platform.environment)
    os.environ["CHOREO_DATA"] = str(platform.log("order").parent / "data")


def _introduce(paper: Paper, flower: str) -> None:
    paper.prose()
    paper.prose(f"Flower shows the same while this runs: {flower}/tasks")
    paper.prose()
    paper.prose(
        "Each line below is something that happens now: after how many seconds, in which service, and what it heard -> "
        "what it announced or did. Left out are analytics, which hears everything, and refunds that nobody needs."
    )


def _count(stage: Stage) -> None:
    stage.paper.heading("What every service did, counted in its own database")
    stage.until("analytics has heard every event", lambda: table.heard_by_analytics() == len(stage.observer.events))
    stage.paper.table(table.rows())
    table.check(stage)
    stage.paper.prose()
    stage.paper.prose("Each order exactly once, through retries, a replay and a service that was away.")
    stage.paper.prose()
