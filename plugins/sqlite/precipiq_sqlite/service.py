"""The SQLite database: plain reads, tenant reads, and transactions through the one writer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import ColumnType, Migration, Row, Statement
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_core.key_files import make_folder
from precipiq_schema.schema_state import SchemaState
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.connection import open_for_reading, open_for_writing
from precipiq_sqlite.guards import read_schema
from precipiq_sqlite.index_check import SHARE_MIN, IndexCheck
from precipiq_sqlite.migrate import migrate, pending_revisions
from precipiq_sqlite.plain_reads import PlainReads, open_plain_reads
from precipiq_sqlite.readers import SqliteReaders
from precipiq_sqlite.tenant import TenantConnection, TenantTables
from precipiq_sqlite.transactions import TransactionGuard
from precipiq_sqlite.writer import SqliteWriter

T = TypeVar("T")

log = structlog.get_logger("precipiq.database")


class SqliteDatabase:
    """See ``precipiq_contracts.database.Database``; also gives drivers the writer and the readers of the file.

    ``checkpoints``: False in every process but the server, which alone moves the log into the file, and makes and
    migrates it by itself.
    """

    def __init__(self, settings: SqliteConfig, path: Path, *, checkpoints: bool = True) -> None:
        self.path = path
        self.settings = settings
        self._checkpoints = checkpoints
        self._guard = TransactionGuard()
        self._writer: SqliteWriter | None = None
        self._readers: SqliteReaders | None = None
        self._plain: PlainReads | None = None

    @property
    def writer(self) -> SqliteWriter:
        """The writer of the file. Raises ``Unavailable`` while the database is not open."""
        return _require_open(self._writer)

    @property
    def readers(self) -> SqliteReaders:
        """The readers of the file. Raises ``Unavailable`` while the database is not open."""
        return _require_open(self._readers)

    def reserve(self, table: str) -> None:
        """Refuse statements of :meth:`transaction` that touch ``table``: a driver writes it by itself."""
        self._guard.reserve(table)

    def migrate(self, migrations: Sequence[Migration], *, post: bool = True) -> list[str]:
        """See ``MigratedDatabase.migrate``. Safe beside other processes that migrate; takes steps of both phases."""
        make_folder(self.path.parent)
        return migrate(self.path, migrations)

    @asynccontextmanager
    async def open(self, migrations: Sequence[Migration]) -> AsyncIterator[None]:
        """Open the database for the life of the application.

        Raises ``DeploymentError`` when the schema is not the one these migrations make, ``Unavailable`` when the file
        cannot be opened.
        """
        await asyncio.to_thread(self._settle_schema, migrations)
        tables = {table: columns for migration in migrations for table, columns in migration.tenant_tables.items()}
        async with AsyncExitStack() as stack:
            await self._open(tables, stack)
            log.info("database open", path=str(self.path), sqlite_version=sqlite3.sqlite_version)
            try:
                yield
            finally:
                self._plain = None

    def _settle_schema(self, migrations: Sequence[Migration]) -> None:
        waiting = pending_revisions(self.path, migrations)
        if waiting and self.settings.migrate_at_start and self._checkpoints:
            for revision in self.migrate(migrations):
                log.info("migrated", revision=revision)
        elif not self._checkpoints and not self.path.exists():
            raise DeploymentError([f"there is no database {self.path}: start the server, or run `precipiq migrate`"])
        elif waiting:
            raise DeploymentError(
                [f"the database needs {len(waiting)} migrations ({', '.join(waiting)}): run `precipiq migrate`"]
            )

    async def _open(self, tables: TenantTables, stack: AsyncExitStack) -> None:
        settings, timeout_s = self.settings, self.settings.busy_timeout_s
        self._writer = SqliteWriter(
            self._connect_writer, queue_max=settings.writer_queue_max, group_rows_max=settings.group_rows_max
        )
        await self._writer.start()
        stack.push_async_callback(self._writer.close)
        self._readers = SqliteReaders(
            partial(open_for_reading, self.path, timeout_s),
            partial(TenantConnection, self.path, tables, timeout_s),
            threads_count=settings.readers_max,
            queue_max=settings.reader_queue_max,
        )
        await self._readers.start()
        stack.push_async_callback(self._readers.close)
        self._plain = await stack.enter_async_context(open_plain_reads(partial(open_for_reading, self.path, timeout_s)))

    def _connect_writer(self) -> sqlite3.Connection:
        connection = open_for_writing(self.path, self.settings.busy_timeout_s, checkpoints=self._checkpoints)
        connection.set_authorizer(self._guard.authorize)
        return connection

    def select_rows(self, columns: Sequence[tuple[str, ColumnType]], parameter: str) -> str:
        """See ``Database.select_rows``."""
        taken = [f"json_extract(value, '$[{index}]') AS {name}" for index, (name, _) in enumerate(columns)]
        return f"SELECT {', '.join(taken)} FROM json_each(:{parameter})"  # noqa: S608

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """See ``Database.fetch``."""
        return await _require_open(self._plain).fetch(statement)

    async def fetch_as(self, chain: Chain, statement: Statement) -> Sequence[Row]:
        """See ``Database.fetch_as``."""
        return await self.readers.fetch_as(chain, statement)

    async def transaction(self, statements: Sequence[Statement]) -> Sequence[Sequence[Row]]:
        """See ``Database.transaction``. Raises ``Conflict`` when a constraint of the schema is violated."""
        return await self.writer.submit(self._guard.run, tuple(statements), len(statements))

    async def schema_state(self) -> SchemaState:
        """See ``GuardedDatabase``."""
        return await self.readers.run(read_schema)

    async def check_indexes(self, core_share: float) -> list[str]:
        """See ``IndexedDatabase``."""
        check = IndexCheck(self.path, max(core_share, SHARE_MIN))
        try:
            return await asyncio.to_thread(check.run)
        finally:
            check.stop()

    async def ping(self) -> None:
        """See ``Database.ping``."""
        if not self.writer.is_running:
            raise Unavailable("the database's writer has ended")
        await self.readers.run(lambda connection: connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall())


def _require_open(part: T | None) -> T:
    if part is None:
        raise Unavailable("the database is not open")
    return part
