"""The only module that imports ``databases``: its lifecycle and pool of PostgreSQL, nothing else of it.

The plugin uses no ``transaction()``, ``execute_many`` or ``iterate``: a cancelled task loses its connection, batches
are slow, BEGIN is deferred. Work that needs a transaction gets the raw connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import databases
from databases.core import Connection

from precipiq_postgres.errors import NoConnection


class PostgresConnections:
    """The pool of connections to PostgreSQL."""

    def __init__(self, database: databases.Database) -> None:
        self._database = database

    @asynccontextmanager
    async def acquire(self, wait_s: float) -> AsyncIterator[asyncpg.Connection]:
        """Lend the caller a connection of its own. Raises ``NoConnection`` when none is free in time."""
        # Not database.connection(): the whole task shares that connection, and a cancelled task breaks it.
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
