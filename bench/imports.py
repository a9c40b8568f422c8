"""
``python -m bench.imports``: the CPU time of importing choreo, and of a command that asks Redis, beside that of Celery.

Each row is a new process. The rows take turns, so that a busy machine disturbs all of them alike. The figures are the
user and system time of each process: the median of all turns, and its ratio to that of Celery.
"""

import os
import resource
import statistics
import subprocess
import sys

from bench.brokers import redis_broker

TURNS = 15
CELERY = "import celery; celery.Celery"
#: The name of a row, and the arguments of Python.
ROWS = {
    CELERY: ("-c", CELERY),
    "import choreo; choreo.Service": ("-c", "import choreo; choreo.Service"),
    "from choreo import Event, Service": ("-c", "from choreo import Event, Service"),
    "choreo schedule": ("-m", "choreo", "schedule"),
    "choreo dead-letters list": ("-m", "choreo", "dead-letters", "list"),
    "choreo joins list": ("-m", "choreo", "joins", "list"),
    "choreo top": ("-m", "choreo", "top", "--once", "--interval", "0"),
    "choreo stuck": ("-m", "choreo", "stuck"),
}


def measured(arguments: tuple[str, ...], url: str) -> float:
    """The CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"CHOREO_BROKER_URL": url}, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table."""
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    with redis_broker(None) as broker:
        for turn in range(TURNS + 1):
            for name, arguments in ROWS.items():
                spent = measured(arguments, broker.url)
                if turn:  # in the first, Python compiles the modules
                    seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'a new process':36} CPU ms   times Celery")
    for name, median in medians.items():
        print(f"{name:36} {median * 1000:6.0f} {median / medians[CELERY]:14.2f}")


if __name__ == "__main__":
    main()
