"""Wake-ups after appends: at once for this process's own, by a look at an interval for those of other processes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import structlog

from precipiq_core.contracts.chain import Chain, Environment
from precipiq_core.database.sqlite_readers import SqliteReaders
from precipiq_core.errors import Unavailable

log = structlog.get_logger("precipiq.ledger.sqlite")

_LOOK_ROWS_MAX = 10_000


class WakeUps:
    """The wake-ups of one watcher. One that comes while nobody waits is kept for the next wait."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._event.set()

    def __aiter__(self) -> WakeUps:
        return self

    async def __anext__(self) -> None:
        await self._event.wait()
        self._event.clear()


class Watchers:
    """Who watches which chain."""

    def __init__(self, readers: SqliteReaders, poll_s: float) -> None:
        self._readers = readers
        self._poll_s = poll_s
        self._by_chain: dict[Chain, set[WakeUps]] = {}

    def wake(self, chain: Chain) -> None:
        """Wake everybody who watches that chain."""
        for watcher in self._by_chain.get(chain, ()):
            watcher.wake()

    @asynccontextmanager
    async def watch(self, chain: Chain) -> AsyncIterator[AsyncIterator[None]]:
        """See ``EntryStore.watch``."""
        wake_ups = WakeUps()
        watching = self._by_chain.setdefault(chain, set())
        watching.add(wake_ups)
        try:
            yield wake_ups
        finally:
            watching.discard(wake_ups)
            if not watching and self._by_chain.get(chain) is watching:
                del self._by_chain[chain]

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
            for chain in list(self._by_chain):
                self.wake(chain)
        for org_id, environment in chains or ():
            self.wake(Chain(org_id, cast("Environment", environment)))
        return newest
