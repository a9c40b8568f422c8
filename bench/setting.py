"""
The settings of a session, for all of its processes: the side, the brokers and the counters.

The benchmark writes them as JSON, and names the file in the environment. Publishers and workers read it. Standard
library only: the environments of the peers import this module, too.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

#: The environment variable that names the file.
VARIABLE = "CHOREO_BENCH_SETTING"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting:
    """The settings of one session."""

    side: str
    module: str
    approach: str
    pool: str
    concurrency: int
    prefetch: int
    broker_url: str
    redis_url: str
    directory: str
    #: The number of events that the counters hold.
    capacity: int
    #: Seconds after which the events of a dead worker are redelivered, if the side has such a setting. 0: its default.
    patience: int = 0
    #: Settings of choreo, or of Celery, that differ from their defaults.
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self) -> str:
        """Write the file, and return its path."""
        path = Path(self.directory, "setting.json")
        path.write_text(json.dumps(asdict(self)))
        return str(path)


@cache
def current() -> Setting:
    """Return the settings of this process."""
    return Setting(**json.loads(Path(os.environ[VARIABLE]).read_text()))
