"""Deliveries over a real ledger and a real database, without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import precipiq_billing
import precipiq_ledger
from precipiq_billing.deliveries import Deliveries
from precipiq_billing.delivery_store import DeliveryStore
from precipiq_billing.kinds import kinds
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_billing.service import FinancialEvents
from precipiq_core.clock import SystemClock, SystemRandomness
from precipiq_core.contracts.database import Migration
from precipiq_core.contracts.entry_store import EntryStoreDriver
from precipiq_core.database import new_database
from precipiq_core.database.postgres import PostgresDatabase
from precipiq_core.database.settings import DatabaseSettings
from precipiq_core.database.sqlite import SqliteDatabase
from precipiq_ledger.drivers.postgres import PostgresDriver, PostgresDriverOptions
from precipiq_ledger.drivers.sqlite import SqliteDriver, SqliteDriverOptions
from precipiq_ledger.service import LedgerService, Limits
from precipiq_ledger.verifier import StoredChains, Verifier
from precipiq_testkit.postgres import PostgresDatabase as TestDatabase

_COLUMNS = ("org_id", "environment")
_BILLING = ("stripe_endpoints", "stripe_registers", "stripe_deliveries", "billing_events")


def _folder(package: object) -> Path:
    return Path(str(package.__file__)).parent / "sql" / "migrations"  # type: ignore[attr-defined]


@pytest.fixture
async def deliveries(
    server_database: TestDatabase | None, tmp_path: Path
) -> AsyncIterator[tuple[Deliveries, FinancialEvents, LedgerService]]:
    """What takes deliveries, what finds their events, and the ledger below both."""
    settings = {"migrate_at_start": True} if server_database is None else server_database.settings()
    database = new_database(DatabaseSettings.model_validate(settings), tmp_path)
    tables: dict[str, tuple[str, str | None]] = {"entries": _COLUMNS}
    driver: EntryStoreDriver
    if isinstance(database, SqliteDatabase):
        driver = SqliteDriver(database, SqliteDriverOptions(50_000, 1.0))
    else:
        assert isinstance(database, PostgresDatabase)
        tables["ledger_checkpoints"] = _COLUMNS
        driver = PostgresDriver(database, PostgresDriverOptions(50_000, 1.0))
    migrations = [
        Migration("ledger", _folder(precipiq_ledger), tables, frozenset({"entries"})),
        Migration("billing", _folder(precipiq_billing), dict.fromkeys(_BILLING, _COLUMNS)),
    ]
    clock = SystemClock()
    ledger = LedgerService(clock, SystemRandomness(), Limits(256 * 1024, 64))
    events = FinancialEvents(ledger, StoredChains(ledger, _no_verifier()))
    async with database.opened(migrations), driver.open() as store:
        ledger.start(store, {kind.name: kind for kind in kinds(events.present)})
        taking = Deliveries(
            DeliveryStore(database),
            events,
            clock,
            DeliveryMetrics(CollectorRegistry()),
            accept_test_mode_in_live=True,
            retry_s=1.0,
        )
        yield taking, events, ledger
        await taking.note_sealed()
        ledger.stop()


def _no_verifier() -> Verifier:
    """Nothing is verified here."""
    return None  # type: ignore[return-value]
