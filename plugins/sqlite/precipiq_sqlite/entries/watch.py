"""Wake-ups after appends: at once for this process's own, by a periodic look for those of other processes."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractAsyncContextManager
from typing import cast

from precipiq_chain.watchers import Watchers
from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain, Environment
from precipiq_sqlite.readers import SqliteReaders

_LOOK_ROWS_MAX = 10_000


class SqliteWatchers(Watchers):
    """Watchers that also hear of other processes' appends to the file."""

    def __init__(self, readers: SqliteReaders, poll_s: float) -> None:
        super().__init__()
        self._readers = readers
        self._look_every_s = poll_s
        self._last_row: int | None = None

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Look for the entries of other processes while the context is entered."""
        return background("sqlite.watch", self._look, every_s=self._look_every_s, failing="cannot look for new entries")

    async def _look(self) -> None:
        last_row = self._last_row

        def changes(connection: sqlite3.Connection) -> tuple[int, list[tuple[str, str]] | None]:
            newest = int(connection.execute("SELECT coalesce(max(rowid), 0) FROM entries").fetchone()[0])
            if last_row is None or newest == last_row:
                return newest, []
            if not last_row < newest <= last_row + _LOOK_ROWS_MAX:
                return newest, None
            sql = "SELECT DISTINCT org_id, environment FROM entries WHERE rowid > ?"
            return newest, connection.execute(sql, (last_row,)).fetchall()

        newest, chains = await self._readers.run(changes)
        if chains is None:
            self.wake_all()
        for org_id, environment in chains or ():
            self.wake(Chain(org_id, cast("Environment", environment)))
        self._last_row = newest
