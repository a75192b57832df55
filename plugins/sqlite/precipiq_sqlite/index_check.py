"""Whether indexes hold what their tables hold: one emptied behind its definition hides rows from every query."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from precipiq_contracts.errors import Unavailable
from precipiq_sqlite.connection import open_for_reading

PROBLEMS_MAX = 20
SHARE_MIN = 0.5
_TABLES = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
_BUSY_TIMEOUT_S = 5.0
_STEPS = 20_000
"""Of SQLite's machine between two looks at the time, about a millisecond."""


class IndexCheck:
    """A check of the whole file by a connection of its own, in the thread that calls :meth:`run`.

    ``core_share``: of a core; the rest of the time it sleeps, after what SQLite does at a stretch. While it looks at a
    table, SQLite's log cannot be emptied: a server gives it ``SHARE_MIN`` at least.
    """

    def __init__(self, path: Path, core_share: float) -> None:
        self._path = path
        self._rest = 1 / core_share - 1
        self._is_stopped = threading.Event()
        self._cpu_s = 0.0

    def stop(self) -> None:
        """Let :meth:`run` raise ``Unavailable`` soon; from any thread."""
        self._is_stopped.set()

    def run(self) -> list[str]:
        """What SQLite found wrong, at most :data:`PROBLEMS_MAX` sentences. Raises ``Unavailable``."""
        with closing(open_for_reading(self._path, _BUSY_TIMEOUT_S)) as connection:
            self._cpu_s = time.thread_time()
            connection.set_progress_handler(self._pause, _STEPS)
            try:
                tables = [str(name) for (name,) in connection.execute(_TABLES).fetchall()]
                rows = [row for name in tables for row in self._check(connection, name)][:PROBLEMS_MAX]
            except sqlite3.OperationalError as error:
                raise Unavailable(f"the indexes were not checked: {error}") from error
            except sqlite3.DatabaseError as error:
                return [str(error)]
        return [str(text) for (text,) in rows if text != "ok"]

    def _check(self, connection: sqlite3.Connection, table: str) -> list[tuple[str]]:
        if self._is_stopped.is_set():
            raise sqlite3.OperationalError("interrupted")
        quoted = table.replace('"', '""')
        return list(connection.execute(f'PRAGMA main.integrity_check("{quoted}")').fetchall())

    def _pause(self) -> int:
        """Whether to break off, after having slept for what it worked."""
        cpu_s = time.thread_time() - self._cpu_s
        stopped = self._is_stopped.wait(cpu_s * self._rest)
        self._cpu_s = time.thread_time()
        return int(stopped)
