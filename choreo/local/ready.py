"""
Tells the platform that a worker is ready.

The worker imports this module (`celery worker --include choreo.local.ready`). It uses Celery's signal, not the log,
because users can change the level and the format of the log.
"""

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

#: The environment variable that names the file to write.
READY_FILE = "CHOREO_READY_FILE"


@worker_ready.connect(weak=False)
def write_ready_file(**_: Any) -> None:
    """
    Write the process id of the worker, and the length of its log in bytes, into the file that the platform waits for.

    Does nothing outside a platform.
    """
    if path := os.environ.get(READY_FILE):
        # Renaming is atomic: a reader that finds the file finds all of its content.
        draft = Path(f"{path}.draft")
        # In a platform, standard output is the log file.
        draft.write_text(f"{os.getpid()} {os.fstat(1).st_size}")
        draft.replace(path)
