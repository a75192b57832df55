"""A ledger over a real database in this process, without sockets, for tests of what plugins do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from precipiq_contracts.chain import EntryKind
from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database, Migration
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_ledger.sealing import EntrySealer
from precipiq_ledger.service import LedgerService, Limits
from precipiq_postgres.entries.driver import PostgresDriver
from precipiq_sqlite.entries.driver import SqliteDriver
from precipiq_sqlite.service import SqliteDatabase
from precipiq_testkit.postgres import PostgresDatabase as ServerDatabase
from tests.databases import new_database

COLUMNS = ("org_id", "environment")
DECISION = EntryKind("decision", "an agent decided something")
REDACTION = EntryKind("redaction", "a payload was erased")


def migration_of(package: ModuleType, name: str, tables: Sequence[str]) -> Migration:
    """A plugin's own migration, all of whose tables have both columns of a chain."""
    folder = Path(str(package.__file__)).parent / "sql" / "migrations"
    return Migration(name, folder, dict.fromkeys(tables, COLUMNS))


@asynccontextmanager
async def open_ledger(
    server_database: ServerDatabase | None,
    folder: Path,
    migrations: Sequence[Migration],
    *,
    clock: Clock | None = None,
    sealer: EntrySealer | None = None,
) -> AsyncIterator[tuple[Database, LedgerService]]:
    """The database and the ledger; give the ledger its kinds with :func:`serve_kinds`."""
    settings = {"migrate_at_start": True} if server_database is None else server_database.settings()
    database = new_database(settings, folder)
    is_embedded = isinstance(database, SqliteDatabase)
    driver = SqliteDriver(database) if is_embedded else PostgresDriver(database)
    ledger = LedgerService(clock or SystemClock(), SystemRandomness(), Limits(256 * 1024, 64), None, sealer)
    async with database.open([*driver.migrations, *migrations]), driver.open() as store:
        ledger.start(store, {})
        yield database, ledger
        ledger.stop()


def serve_kinds(ledger: LedgerService, kinds: Sequence[EntryKind]) -> None:
    """Let the ledger take entries of these kinds, of decisions and of redactions."""
    by_name: Mapping[str, EntryKind] = {kind.name: kind for kind in (DECISION, REDACTION, *kinds)}
    ledger.start(ledger.store, by_name)
