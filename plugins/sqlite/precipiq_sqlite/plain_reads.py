"""Plain reads of SQLite: as the deployment, one at a time, over one kept connection that no cancellation reaches."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import aiosqlite

from precipiq_contracts.database import Row, Statement
from precipiq_sqlite.connection import translate_errors

_FETCHED_AT_ONCE = 64


class PlainReads:
    """A read that has begun runs to its end, even when its caller is cancelled."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._running: set[asyncio.Task[Sequence[Row]]] = set()

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """The rows of a statement that reads. Raises ``Unavailable`` when the database cannot answer."""
        # A read cancelled half-way would keep its snapshot open: it runs to its end by itself.
        task = asyncio.ensure_future(self._fetch(statement))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Wait for the reads that have begun."""
        while self._running:
            await asyncio.wait(self._running)

    async def _fetch(self, statement: Statement) -> Sequence[Row]:
        with translate_errors():
            rows = await self._connection.execute_fetchall(statement.sql, dict(statement.parameters))
        return [cast("Row", dict(row)) for row in rows]


@asynccontextmanager
async def open_plain_reads(connect: Callable[[], sqlite3.Connection]) -> AsyncIterator[PlainReads]:
    """Plain reads over the connection that ``connect`` opens, in a thread of its own."""
    connection = aiosqlite.Connection(connect, _FETCHED_AT_ONCE)
    connection._thread.daemon = True  # a daemon: a process that never closes the database can end
    async with connection:
        connection.row_factory = sqlite3.Row
        reads = PlainReads(connection)
        try:
            yield reads
        finally:
            await reads.finish()
