"""The SQLite driver keeps the whole contract of an entry store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import precipiq_ledger
from precipiq_core.contracts.database import Migration
from precipiq_core.contracts.entry_store import EntryStore
from precipiq_core.database.settings import DatabaseSettings
from precipiq_core.database.sqlite import SqliteDatabase
from precipiq_ledger.drivers.sqlite import SqliteDriver, SqliteDriverOptions
from precipiq_testkit.entry_store import EntryStoreConformance, Reopen

MIGRATION = Migration(
    "ledger", Path(precipiq_ledger.__file__).parent / "sql" / "migrations", {"entries": ("org_id", "environment")}
)


class OwnDatabaseDriver(SqliteDriver):
    """Opens its database with each store, as a process of its own would."""

    def __init__(self, path: Path) -> None:
        self._own = SqliteDatabase(DatabaseSettings(migrate_at_start=True), path)
        super().__init__(self._own, SqliteDriverOptions(find_scan_rows_max=25, watch_poll_s=0.05))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        async with self._own.opened([MIGRATION]), super()._open() as store:
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
