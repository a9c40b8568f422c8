"""Runs the story: starts the platform, tells every chapter, and stops everything."""

import os
import shutil
import sys
import time
from pathlib import Path

from choreo import ChoreoError
from choreo.cli.trace import show
from choreo.local import Platform
from handlers import order as order_service
from handlers.story import table
from handlers.story.chapters import CHAPTERS
from handlers.story.paper import Paper
from handlers.story.stage import Stage, StoryError

#: One pool process per worker. It starts sooner, and is enough for one order at a time.
WORKER_OPTIONS = ("--concurrency", "1")


def perform() -> int:
    """Start the platform, tell every chapter, check the counts, and stop everything. Returns the exit code."""
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
        _show_failure(paper, error)
        return 1
    paper.prose(f"The end. Everything is stopped, and nothing is left running ({time.monotonic() - began_at:.0f} s).")
    paper.prose()
    paper.prose("This keeps the platform up until Ctrl-C, for you to play with, with its pages:")
    # Not clipped like other lines, so that it can be copied.
    paper.words(f"    {choreo_command()} up handlers --flower --pages", end=True)
    return 0


def choreo_command() -> str:
    """Return the command that runs the `choreo` of this Python: its name if PATH finds it, else its path."""
    script = Path(sys.executable).with_name("choreo")
    on_path = shutil.which("choreo")
    if not script.exists() or (on_path is not None and Path(on_path).resolve() == script.resolve()):
        return "choreo"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)


def _close(platform: Platform) -> None:
    """Stop everything. Running handlers may finish, unless Ctrl-C is pressed once more."""
    try:
        platform.close()
    except KeyboardInterrupt:
        platform.close(force=True)


def _show_failure(paper: Paper, error: Exception) -> None:
    paper.prose()
    paper.prose("The story failed:", colour="red")
    for line in str(error).splitlines():
        # Indented lines are the end of a log.
        if line.startswith("  "):
            paper.verbatim([line.strip()])
        else:
            paper.prose(line)


def _play(platform: Platform, paper: Paper) -> None:
    paper.prose("Starting an embedded server, a Celery worker for each service, and Flower.")
    platform.open()
    _use_platform(platform)
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
    _trace(stage)
    if _is_terminal():
        _serve(stage)


def _use_platform(platform: Platform) -> None:
    """Point this process and the workers to the platform's server, and to a data folder that ends with it."""
    os.environ.update(platform.environment)
    os.environ["CHOREO_DATA"] = str(platform.log("order").parent / "data")


def _introduce(paper: Paper, flower: str) -> None:
    paper.prose()
    paper.prose(f"Flower shows the same while this runs: {flower}/tasks")
    paper.prose()
    paper.prose(
        "Each line below happens now. It shows the seconds since the order, the service, and the event that it "
        "received -> the event that it announced, or its action. Analytics, which receives every event, is left out, "
        "and so are refunds that are not needed."
    )


def _count(stage: Stage) -> None:
    stage.paper.heading("What every service did, counted in its own database")
    stage.until("analytics has heard every event", lambda: table.heard_by_analytics() == len(stage.observer.events))
    stage.paper.table(table.rows())
    table.check(stage)
    stage.paper.prose()
    stage.paper.prose("Each order exactly once, through retries, a replay and a service that was down.")
    stage.paper.prose()


def _trace(stage: Stage) -> None:
    """Print the trace of the order whose message was a dead letter."""
    dave = next(order for order in stage.orders if order.customer == "dave")
    stage.paper.prose("The whole story of one order, as an operator asks for it:")
    stage.paper.prose()
    stage.paper.words(f"$ choreo trace {dave.id}", end=True)
    (found,) = order_service.app.observe.trace(dave.id)
    show(found)
    stage.paper.prose()


def _is_terminal() -> bool:
    """True if somebody reads this, and can press a key."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _serve(stage: Stage) -> None:
    """Serve the pages of the platform until somebody presses Enter."""
    dave = next(order for order in stage.orders if order.customer == "dave")
    url = stage.platform.start_pages()
    stage.paper.prose("The same in a browser, with the map, the flow and the dead letters. Here you may change things:")
    stage.paper.words(f"    {url}/stories?q={dave.id}", end=True)
    stage.paper.words("\nEnter ends the demo. ")
    sys.stdin.readline()
    stage.paper.prose()
