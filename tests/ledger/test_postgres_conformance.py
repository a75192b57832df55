"""The PostgreSQL driver keeps the whole contract of an entry store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import precipiq_ledger
from precipiq_core.contracts.database import Migration
from precipiq_core.contracts.entry_store import EntryStore
from precipiq_core.database.postgres import PostgresDatabase
from precipiq_core.database.settings import DatabaseSettings
from precipiq_ledger.drivers.postgres import PostgresDriver, PostgresDriverOptions
from precipiq_testkit import postgres
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen

COLUMNS = ("org_id", "environment")
MIGRATION = Migration(
    "ledger",
    Path(precipiq_ledger.__file__).parent / "sql" / "migrations",
    {"entries": COLUMNS, "ledger_checkpoints": COLUMNS},
    frozenset({"entries"}),
)


class OwnDatabaseDriver(PostgresDriver):
    """Opens its database with each store, as a process of its own would."""

    def __init__(self, database: postgres.PostgresDatabase, **settings: object) -> None:
        self._own = PostgresDatabase(DatabaseSettings.model_validate(database.settings() | settings))
        super().__init__(self._own, PostgresDriverOptions(find_scan_rows_max=25, watch_poll_s=0.05))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        async with self._own.opened([MIGRATION]), super()._open() as store:
            yield store


class TestPostgresDriver(EntryStoreConformance):
    @pytest.fixture
    def driver(self, shared_postgres: postgres.PostgresDatabase) -> Iterator[PostgresDriver]:
        yield OwnDatabaseDriver(shared_postgres)
        shared_postgres.empty("entries")

    @pytest.fixture
    def reopen(self, shared_postgres: postgres.PostgresDatabase) -> Reopen:
        return lambda: OwnDatabaseDriver(shared_postgres, migrate_at_start=False).open()
