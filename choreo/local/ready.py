"""
Tell the platform that a worker is ready.

Imported by the worker itself (`celery worker --include choreo.local.ready`), because Celery's own signal is surer than
its log, whose level and format belong to the user.
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
    Write the worker's process id, and how long its log was by now, into the file that the platform waits for.

    Nothing happens outside a platform.
    """
    if path := os.environ.get(READY_FILE):
        # Renaming is atomic: whoever sees the file can read everything in it.
        draft = Path(f"{path}.draft")
        # In a platform the standard output is the log file.
        draft.write_text(f"{os.getpid()} {os.fstat(1).st_size}")
        draft.replace(path)
