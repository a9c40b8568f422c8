"""
What every process of one session has to know: the side it plays, and where brokers and counters are.

The driver writes it as JSON and names the file in the environment; publishers and workers read it. Standard library
only: the environments of the peers import this too.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

#: The environment variable that names the file.
VARIABLE = "CHOREO_BENCH_SETTING"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting:
    """One session's facts."""

    side: str
    module: str
    approach: str
    pool: str
    concurrency: int
    prefetch: int
    broker_url: str
    redis_url: str
    directory: str
    #: How many events the counters can tell apart.
    capacity: int
    #: Seconds after which a dead worker's events come back, where the side can be told; 0: its own default.
    patience: int = 0

    def write(self) -> str:
        """Write the file, and return its path."""
        path = Path(self.directory, "setting.json")
        path.write_text(json.dumps(asdict(self)))
        return str(path)


@cache
def current() -> Setting:
    """The setting of this process."""
    return Setting(**json.loads(Path(os.environ[VARIABLE]).read_text()))
