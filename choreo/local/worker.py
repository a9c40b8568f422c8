"""
Runs the worker of one service as `celery [--quiet] -A TARGET worker OPTIONS` does. This file is run as a script:

    python worker.py [--quiet] TARGET OPTIONS

Celery's own command first imports every installed command, above all Flower's. That is a third of the CPU time that
the start of a worker takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def worker_command(target: str, *options: str, quiet: bool = False) -> list[str]:
    """Return the command that runs a worker of the app that `celery -A TARGET` finds. ``quiet`` hides its banner."""
    return [sys.executable, str(Path(__file__).absolute()), *(["--quiet"] if quiet else []), target, *options]


def main(arguments: Sequence[str]) -> None:
    """Run a worker. Exits with the worker's exit code."""
    from celery.app.utils import find_app
    from celery.bin.base import CLIContext
    from celery.bin.worker import worker

    quiet = arguments[0] == "--quiet"
    target, *options = arguments[quiet:]
    app = find_app(target)
    worker.params.extend(app.user_options["worker"])
    context = CLIContext(app=app, no_color=False, workdir=None, quiet=quiet)
    worker.main(options, prog_name="celery worker", auto_envvar_prefix="CELERY_WORKER", obj=context)


if __name__ == "__main__":
    # `python -m celery` finds modules in the current directory; a script finds them in its own.
    sys.path[0] = str(Path.cwd())
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency()
    main(sys.argv[1:])
