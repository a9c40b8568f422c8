"""
A database file for each service that owns data. No service opens the file of another.

SQLite needs no server. Several worker processes of one service may write at the same time: SQLite serialises them.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

#: Seconds that a write waits for another write to finish.
BUSY_SECONDS = 10.0


def data_directory() -> Path:
    """Return the directory of all database files: CHOREO_DATA, or the folder `data` beside this package."""
    return Path(os.environ.get("CHOREO_DATA") or Path(__file__).parent.parent / "data")


class Ledger:
    """
    The database of one service. The first use creates the tables.

    Each call opens and closes a connection, so forked children and threads share none.
    """

    def __init__(self, service: str, tables: str) -> None:
        self.service = service
        self._tables = tables

    def write(self, statement: str, *values: Any) -> bool:
        """Execute a statement and commit it. Return True if it changed a row."""
        with self._open() as connection, connection:
            return connection.execute(statement, values).rowcount > 0

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return all rows of a query."""
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
