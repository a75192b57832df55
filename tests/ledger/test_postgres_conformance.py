"""The PostgreSQL driver keeps the whole contract of an entry store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_contracts.entry_store import EntryStore
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen
from precipiq_testkit.postgres import PostgresDatabase
from tests.databases import POSTGRES_ENTRIES
from tests.ledger.intruders import core_database


class OwnDatabaseDriver(PostgresDriver):
    """Opens its database with each store, as a process of its own would."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._own = core_database(database, migrate_at_start=False)
        super().__init__(self._own, DriverOptions(find_scan_rows_max=25, watch_poll_s=0.05))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        async with self._own.open([POSTGRES_ENTRIES]), super()._open() as store:
            yield store


class TestPostgresDriver(EntryStoreConformance):
    @pytest.fixture
    def driver(self, migrated: PostgresDatabase) -> Iterator[PostgresDriver]:
        yield OwnDatabaseDriver(migrated)
        migrated.empty("entries")

    @pytest.fixture
    def reopen(self, migrated: PostgresDatabase) -> Reopen:
        return lambda: OwnDatabaseDriver(migrated).open()
