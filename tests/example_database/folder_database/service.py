"""The database: every call is work for one thread, which holds the tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

from folder_database.config import FolderConfig
from folder_database.one_thread import OneThread
from folder_database.tables import Tables
from folder_database.tenant import TenantTables, fetch_as
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import ColumnType, Migration, Row, Statement
from precipiq_contracts.errors import DeploymentError


class FolderDatabase:
    """See ``precipiq_contracts.database.Database`` and ``MigratedDatabase``."""

    def __init__(self, settings: FolderConfig, folder: Path) -> None:
        self._settings = settings
        self._new_tables = partial(
            Tables, folder, lock_timeout_s=settings.lock_timeout_s, commits_max=settings.commits_max
        )
        self._thread = OneThread("folder-tables", settings.reader_queue_max)
        self._tenant_tables: TenantTables = {}

    def migrate(self, migrations: Sequence[Migration], *, post: bool = True) -> list[str]:
        """See ``MigratedDatabase.migrate``. Takes steps of both phases, and works beside a server."""
        with closing(self._new_tables()) as tables:
            return tables.migrate(migrations)

    @asynccontextmanager
    async def opened(self, migrations: Sequence[Migration]) -> AsyncIterator[None]:
        """Open for the life of the application. Raises ``DeploymentError`` when migrations are missing."""
        self._tenant_tables = {table: columns for each in migrations for table, columns in each.tenant_tables.items()}
        async with self._thread.running():
            with closing(self._new_tables()) as self._tables:
                await self._thread.run(partial(self._open, migrations))
                yield

    def _open(self, migrations: Sequence[Migration]) -> None:
        missing = self._tables.missing(migrations)
        if missing and self._settings.migrate_at_start:
            self._tables.migrate(migrations)
        elif missing:
            raise DeploymentError([f"the database needs migrations ({', '.join(missing)}): run `precipiq migrate`"])

    def select_rows(self, columns: Sequence[tuple[str, ColumnType]], parameter: str) -> str:
        """See ``Database.select_rows``."""
        taken = [f"json_extract(value, '$[{index}]') AS {name}" for index, (name, _) in enumerate(columns)]
        return f"SELECT {', '.join(taken)} FROM json_each(:{parameter})"

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """See ``Database.fetch``."""
        return await self._thread.run(partial(self._tables.read, statement))

    async def fetch_as(self, chain: Chain, statement: Statement) -> Sequence[Row]:
        """See ``Database.fetch_as``."""
        return await self._thread.run(lambda: fetch_as(self._tables.current(), self._tenant_tables, chain, statement))

    async def transaction(self, statements: Sequence[Statement]) -> Sequence[Sequence[Row]]:
        """See ``Database.transaction``."""
        return await self._thread.run(partial(self._tables.commit, tuple(statements)))

    async def ping(self) -> None:
        """See ``Database.ping``."""
        await self._thread.run(self._tables.current)
