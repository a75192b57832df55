"""Deliveries over a real ledger and a real database, without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import precipiq_billing
from precipiq_billing.deliveries import Deliveries
from precipiq_billing.delivery_store import DeliveryStore
from precipiq_billing.kinds import kinds
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_billing.service import FinancialEvents
from precipiq_core.system import SystemClock
from precipiq_ledger.service import LedgerService
from precipiq_testkit.macs import ROW_MACS
from precipiq_testkit.postgres import PostgresDatabase
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

TABLES = ("stripe_endpoints", "stripe_registers", "stripe_deliveries", "billing_events")


@pytest.fixture
async def deliveries(
    server_database: PostgresDatabase | None, tmp_path: Path
) -> AsyncIterator[tuple[Deliveries, FinancialEvents, LedgerService]]:
    """What takes deliveries, what finds their events, and the ledger below both."""
    migrations = [migration_of(precipiq_billing, "billing", TABLES)]
    async with open_ledger(server_database, tmp_path, migrations) as (database, ledger):
        events = FinancialEvents(ledger)
        serve_kinds(ledger, kinds(events.present))
        taking = Deliveries(
            DeliveryStore(database, ROW_MACS),
            events,
            SystemClock(),
            DeliveryMetrics(CollectorRegistry()),
            accept_test_mode_in_live=True,
            retry_s=1.0,
        )
        yield taking, events, ledger
        await taking.note_sealed()
