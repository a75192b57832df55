"""Wake-ups after appends: at once for this process's own, by a look at an interval for those of other processes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import structlog

from precipiq_chain.watchers import Watchers
from precipiq_contracts.chain import Chain, Environment
from precipiq_contracts.errors import Unavailable
from precipiq_sqlite.readers import SqliteReaders

log = structlog.get_logger("precipiq.ledger.sqlite")

_LOOK_ROWS_MAX = 10_000


class SqliteWatchers(Watchers):
    """Watchers who also hear of what other processes append to the file."""

    def __init__(self, readers: SqliteReaders, poll_s: float) -> None:
        super().__init__()
        self._readers = readers
        self._poll_s = poll_s

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look for the entries of other processes as long as this is entered."""
        task = asyncio.create_task(self._look_for_ever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look_for_ever(self) -> None:
        last_row: int | None = None
        while True:
            try:
                last_row = await self._look(last_row)
            except Unavailable as error:
                log.warning("cannot look for new entries", reason=error.message)
            await asyncio.sleep(self._poll_s)

    async def _look(self, last_row: int | None) -> int:
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
        return newest
