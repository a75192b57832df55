"""The only module that imports ``databases``: its lifecycle, ``connection()`` and plain reads, nothing else of it.

Its ``transaction()``, ``execute_many`` and ``iterate`` are never used: a cancelled task loses its connection, batches
are slow, BEGIN is deferred. What needs a transaction gets the raw connection.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any, cast

import aiosqlite
import asyncpg
import databases
from databases.backends.sqlite import SQLitePool
from databases.core import Connection

from precipiq_core.contracts.database import Row, Statement
from precipiq_core.database.postgres_errors import NoConnection
from precipiq_core.database.sqlite_connection import translating


class _ReadOnlyConnection(sqlite3.Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA query_only = ON")
        self.execute("PRAGMA temp_store = MEMORY")


class _DaemonPool(SQLitePool):
    """As its base, but a process that forgot to close ends nevertheless."""

    async def acquire(self) -> aiosqlite.Connection:
        connection = aiosqlite.connect(database=self._database, isolation_level=None, **self._options)
        thread: Thread = getattr(connection, "_thread", connection)  # type: ignore[arg-type]
        thread.daemon = True
        await connection.__aenter__()
        return connection


class PlainReads:
    """Reads of SQLite as the deployment, one at a time, over one kept connection that no cancellation reaches."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._running: set[asyncio.Task[Sequence[Row]]] = set()

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """The rows of a statement that reads. Raises ``Unavailable`` when the database cannot answer."""
        # A read that is cancelled half-way would keep its snapshot open: it is left to end by itself.
        task = asyncio.ensure_future(self._fetch(statement))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Wait for what was begun."""
        while self._running:
            await asyncio.wait(self._running)

    async def _fetch(self, statement: Statement) -> Sequence[Row]:
        with translating():
            records = await self._connection.fetch_all(statement.sql, dict(statement.parameters))
        return [cast("Row", dict(record._mapping)) for record in records]


@asynccontextmanager
async def open_sqlite_reads(uri: str, busy_timeout_s: float) -> AsyncIterator[PlainReads]:
    """Plain reads from the SQLite file under that URI (``file:...?mode=ro``)."""
    path, _, query = uri.partition("?")
    options: dict[str, Any] = {
        "uri": True,
        "timeout": busy_timeout_s,
        "factory": _ReadOnlyConnection,
    }
    database = databases.Database(f"sqlite:///{path}?{query}", **options)
    database._backend._pool = _DaemonPool(database.url, **options)
    async with database:
        connection = database.connection()
        async with connection:
            reads = PlainReads(connection)
            try:
                yield reads
            finally:
                await reads.finish()


class PostgresConnections:
    """The pool of connections to PostgreSQL."""

    def __init__(self, database: databases.Database) -> None:
        self._database = database

    @asynccontextmanager
    async def acquired(self, wait_s: float) -> AsyncIterator[asyncpg.Connection]:
        """A connection of one's own. Raises ``NoConnection`` when none comes in time."""
        # Not database.connection(): that one is shared by everything its task does, and breaks when it is cancelled.
        connection = Connection(self._database, self._database._backend)
        try:
            async with asyncio.timeout(wait_s):
                await connection.__aenter__()
        except TimeoutError:
            raise NoConnection("no connection to the database in time; try again") from None
        try:
            yield connection.raw_connection
        finally:
            await connection.__aexit__()


@asynccontextmanager
async def open_postgres_connections(url: str, options: Mapping[str, Any]) -> AsyncIterator[PostgresConnections]:
    """A pool for that URL. ``options``: those of ``asyncpg.create_pool``, which overrule the URL."""
    async with databases.Database(url, **options) as database:
        yield PostgresConnections(database)
