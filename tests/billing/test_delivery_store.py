"""A register changes only from the state in which it was read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import precipiq_billing
from precipiq_billing.delivery_rows import NewDelivery
from precipiq_billing.delivery_store import DeliveryStore
from precipiq_billing.stripe_facts import Total
from precipiq_contracts.chain import Chain
from precipiq_testkit.macs import ROW_MACS
from precipiq_testkit.postgres import PostgresDatabase
from tests.billing.conftest import TABLES
from tests.system.open_ledger import migration_of, open_ledger

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_1", "test")


@pytest.fixture
async def store(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[DeliveryStore]:
    async with open_ledger(server_database, tmp_path, [migration_of(precipiq_billing, "billing", TABLES)]) as opened:
        yield DeliveryStore(opened[0], ROW_MACS)


def delivery(number: int, total: int) -> NewDelivery:
    return NewDelivery(f"evt_{number}", "payment:pi_1:USD", total, {"n": number}, 1_700_000_000 + number, Total(total))


@pytest.mark.parametrize("totals", [(100, 250), (250, 100), (100, 100), (0, 50)])
async def test_what_was_read_before_another_delivery_stores_nothing(
    store: DeliveryStore, totals: tuple[int, int]
) -> None:
    """A sum of two differences that both began at the same state would count money twice."""
    first, second = (delivery(number, total) for number, total in enumerate(totals))
    stale = await store.read_register(CHAIN, first.register, {}, 10)
    assert await store.add(CHAIN, first, stale, 1) is not None
    assert await store.add(CHAIN, second, stale, 2) is None

    now = await store.read_register(CHAIN, first.register, {}, 10)
    assert (now.version, now.booked, len(now.deliveries)) == (1, totals[0], 1)
    stored = await store.add(CHAIN, second, now, 3)
    assert stored is not None
    assert stored.difference == totals[1] - totals[0]


async def test_an_event_is_stored_once(store: DeliveryStore) -> None:
    one = delivery(1, 100)
    assert await store.add(CHAIN, one, await store.read_register(CHAIN, one.register, {}, 10), 1) is not None
    assert await store.add(CHAIN, one, await store.read_register(CHAIN, one.register, {}, 10), 2) is None
    now = await store.read_register(CHAIN, one.register, {}, 10)
    assert (now.version, now.booked, len(now.deliveries)) == (1, 100, 1)
