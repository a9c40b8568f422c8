"""
A database file for each service that owns data. No service opens another's.

SQLite keeps the platform free of servers. Several worker processes of one service may write at the same time: each
write waits for its turn.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

#: How long a write waits for its turn.
BUSY_SECONDS = 10.0


def data_directory() -> Path:
    """Where all database files are: CHOREO_DATA, or the folder `data` beside this package."""
    return Path(os.environ.get("CHOREO_DATA") or Path(__file__).parent.parent / "data")


class Ledger:
    """
    The database of one service. The tables are made when it is first used.

    No connection is kept open, so nothing is shared with a forked child or another thread.
    """

    def __init__(self, service: str, tables: str) -> None:
        self.service = service
        self._tables = tables

    def write(self, statement: str, *values: Any) -> bool:
        """Execute a statement, durably. True if it changed anything."""
        with self._open() as connection, connection:
            return connection.execute(statement, values).rowcount > 0

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._open() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        data_directory().mkdir(parents=True, exist_ok=True)
        path = data_directory() / f"{self.service}.db"
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE")) as connection:
            connection.row_factory = sqlite3.Row
            connection.executescript(self._tables)
            yield connection
