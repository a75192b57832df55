"""The SQLite driver keeps the whole contract of an entry store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_contracts.entry_store import EntryStore
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen
from tests.databases import SQLITE_ENTRIES

MIGRATION = SQLITE_ENTRIES


class OwnDatabaseDriver(SqliteDriver):
    """Opens its database with each store, as a process of its own would."""

    def __init__(self, path: Path) -> None:
        self._own = SqliteDatabase(SqliteConfig(migrate_at_start=True), path)
        super().__init__(self._own, DriverOptions(find_scan_rows_max=25, watch_poll_s=0.05))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        async with self._own.open([MIGRATION]), super()._open() as store:
            yield store


class TestSqliteDriver(EntryStoreConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Path:
        return tmp_path / "data"

    @pytest.fixture
    def driver(self, storage: Path) -> SqliteDriver:
        return OwnDatabaseDriver(storage / "precipiq.db")

    @pytest.fixture
    def reopen(self, storage: Path) -> Reopen:
        return lambda: OwnDatabaseDriver(storage / "precipiq.db").open()
