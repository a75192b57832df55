"""A row of money books something when this deployment wrote it, and a register is what its deliveries make."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import precipiq_billing
from precipiq_billing.deliveries import DUPLICATE, Deliveries
from precipiq_billing.delivery_store import DeliveryStore
from precipiq_billing.delivery_trust import DeliveryTrust, RegisterTrust
from precipiq_billing.kinds import kinds
from precipiq_billing.metrics import DeliveryMetrics
from precipiq_billing.service import FinancialEvents
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Scalar
from precipiq_contracts.errors import Unavailable
from precipiq_ledger.service import LedgerService
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.macs import ROW_MACS, HashingMasterKey
from precipiq_testkit.postgres import PostgresDatabase
from tests.billing import stripe_events as stripe
from tests.billing.conftest import TABLES
from tests.system.forger import Forger
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

ALPHA, BETA = Chain("org_alpha", "test"), Chain("org_beta", "test")
REFUNDS = "refund:ch_1:USD"


@dataclass
class Bench:
    """Deliveries over a real ledger; forgers of both tables."""

    database: Database
    ledger: LedgerService
    macs: RowMacs = ROW_MACS

    def __post_init__(self) -> None:
        self.events = FinancialEvents(self.ledger)
        serve_kinds(self.ledger, kinds(self.events.present))
        self.clock = ManualClock()
        self.store = DeliveryStore(self.database, self.macs)
        self.taking = Deliveries(
            self.store,
            self.events,
            self.clock,
            DeliveryMetrics(CollectorRegistry()),
            accept_test_mode_in_live=True,
            retry_s=1.0,
        )
        self.tables = DeliveryTrust(self.database, self.ledger, self.macs), RegisterTrust(self.database, self.macs)
        self.deliveries = Forger(self.database, "stripe_deliveries")
        self.registers = Forger(self.database, "stripe_registers")

    async def take(self, event: stripe.Event, chain: Chain = ALPHA) -> str | None:
        """Why nothing was booked; sealed and noted."""
        outcome = await self.taking.take(chain, event)
        await self.taking.note_sealed()
        return outcome.reason

    async def booked(self, chain: Chain = ALPHA) -> list[object]:
        return [parse_statement(each.statement).body["amount"] for each in await self.ledger.read(chain, 0, 100)]

    async def seal_left_over(self) -> None:
        self.clock.advance(60)
        await self.taking.seal_left_over()

    async def findings(self, chain: Chain = ALPHA) -> list[tuple[str, str]]:
        return [(found.code, found.row) for table in self.tables for found in await table.audit(chain)]


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    migration = migration_of(precipiq_billing, "billing", TABLES)
    async with open_ledger(server_database, tmp_path, [migration]) as (database, ledger):
        yield Bench(database, ledger)


def refunded(total: int, event_id: str, second: int = 0, charge_id: str = "ch_1") -> stripe.Event:
    """Of one charge, so much is refunded in all."""
    created = 1_790_000_000 + second
    return stripe.event("charge.refunded", stripe.charge(charge_id, refunded=total), event_id=event_id, created=created)


def paid(event_id: str, amount: int = 2000) -> stripe.Event:
    return stripe.event("payment_intent.succeeded", stripe.payment_intent(amount=amount), event_id=event_id)


async def honest_row(bench: Bench) -> dict[str, Any]:
    """A delivery that waits for its entry, of another chain."""
    await bench.take(refunded(500, "evt_model"), BETA)
    [row] = await bench.deliveries.rows()
    draft = '{"sign":1,"event_type":"payment","currency":"USD","occurred_at":"2026-01-01T00:00:00.000000Z",'
    draft += '"metadata":{},"object_id":"pi_9","related_id":null,"cause":"x","livemode":true}'
    return row | {"draft": draft, "entry_id": None}


async def test_an_invented_delivery_is_not_sealed_stays_and_delays_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precipiq_billing.deliveries._AT_ONCE_MAX", 2)
    forged = await honest_row(bench) | {"org_id": ALPHA.org_id, "received_us": 0}
    ids = [f"evt_forged_{number}" for number in range(5)]
    for event_id in ids:
        await bench.deliveries.insert(forged | {"event_id": event_id})
    await bench.deliveries.change("event_id = 'evt_forged_4'", draft="no JSON", told="no JSON")
    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "append", unavailable)
        await bench.take(refunded(500, "evt_1"))
    assert await bench.booked() == []

    await bench.seal_left_over()
    assert await bench.booked() == ["-5.00"]
    assert await bench.findings() == [(ROW_UNANNOUNCED, event_id) for event_id in ids]
    assert await bench.findings(BETA) == []
    assert len(await bench.deliveries.rows("draft IS NOT NULL")) == len(ids)
    assert await bench.take(refunded(700, "evt_2", 1)) is None
    assert await bench.booked() == ["-5.00", "-2.00"]


async def unavailable(chain: Chain, drafts: object) -> None:
    raise Unavailable


@pytest.mark.parametrize(
    "change",
    [
        {"difference": 400_00},
        {"draft": '{"sign":-1,"event_type":"refund"}'},
        {"register": "refund:ch_2:USD"},
        {"org_id": BETA.org_id},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_delivery_that_was_altered_before_its_entry_books_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: dict[str, Scalar]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "append", unavailable)
        await bench.take(refunded(500, "evt_1"))
        await bench.take(refunded(300, "evt_9", 0, "ch_9"))
    await bench.deliveries.change("event_id = 'evt_1'", **change)
    await bench.seal_left_over()
    assert (await bench.booked(), await bench.booked(BETA)) == (["-3.00"], [])
    chain = BETA if "org_id" in change else ALPHA
    assert (ROW_UNANNOUNCED, "evt_1") in await bench.findings(chain)
    if chain == ALPHA:
        with pytest.raises(Unavailable, match=ROW_UNANNOUNCED):
            await bench.take(refunded(500, "evt_1"))
    with pytest.raises(Unavailable, match=ROW_UNANNOUNCED):
        await bench.take(refunded(700, "evt_2", 1))
    assert await bench.take(refunded(400, "evt_10", 1, "ch_9")) is None
    assert await bench.booked() == ["-3.00", "-1.00"]


async def test_an_event_whose_row_somebody_else_stored_is_not_taken_for_booked(bench: Bench) -> None:
    forged = await honest_row(bench) | {"org_id": ALPHA.org_id, "event_id": "evt_1", "draft": None}
    await bench.deliveries.insert(forged)
    with pytest.raises(Unavailable, match=ROW_UNANNOUNCED):
        await bench.take(refunded(500, "evt_1"))
    await bench.deliveries.delete("event_id = 'evt_1'")
    assert await bench.take(refunded(500, "evt_1")) is None
    assert await bench.take(refunded(500, "evt_1")) == DUPLICATE
    assert await bench.booked() == ["-5.00"]


@pytest.mark.parametrize("how", ["as it was", "another value", "no MAC", "gone"])
async def test_a_register_that_is_set_back_books_nothing_again(bench: Bench, how: str) -> None:
    await bench.take(refunded(500, "evt_1"))
    await bench.take(refunded(300, "evt_9", 0, "ch_9"))
    where = f"register = '{REFUNDS}'"
    [then] = await bench.registers.rows(where)
    await bench.take(refunded(700, "evt_2", 1))
    if how in ("as it was", "gone"):
        await bench.registers.delete(where)
    if how == "as it was":
        await bench.registers.insert(then)
    elif how == "another value":
        await bench.registers.change(where, booked=0)
    elif how == "no MAC":
        await bench.registers.change(where, mac=None)

    with pytest.raises(Unavailable, match=ROW_UNANNOUNCED):
        await bench.take(refunded(900, "evt_3", 2))
    assert await bench.booked() == ["-5.00", "-3.00", "-2.00"]
    assert await bench.findings() == [(ROW_UNANNOUNCED, REFUNDS)]
    assert await bench.take(refunded(400, "evt_10", 1, "ch_9")) is None


async def test_a_register_that_is_set_back_with_its_deliveries_contradicts_the_chain(bench: Bench) -> None:
    await bench.take(refunded(500, "evt_1"))
    registers = await bench.registers.rows()
    await bench.take(refunded(700, "evt_2", 1))
    assert await bench.findings() == []
    await bench.registers.put_back(registers)
    await bench.deliveries.delete("event_id = 'evt_2'")
    assert await bench.findings() == [(ROW_UNANNOUNCED, "evt_2")]


async def test_a_payment_whose_register_is_gone_is_not_booked_twice(bench: Bench) -> None:
    assert await bench.take(paid("evt_1")) is None
    await bench.registers.delete()
    with pytest.raises(Unavailable, match=ROW_UNANNOUNCED):
        await bench.take(paid("evt_2"))
    assert await bench.booked() == ["20.00"]


async def test_an_honest_life_gives_no_finding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precipiq_billing.delivery_trust._PAGE", 2)
    for number, total in enumerate((500, 700, 600, 900)):
        await bench.take(refunded(total, f"evt_{number}", number))
        assert await bench.findings() == []
    await bench.take(paid("evt_4"))
    for event in (refunded(700, "evt_1", 1), refunded(500, "evt_0"), paid("evt_4")):
        assert await bench.take(event) == DUPLICATE
    assert await bench.take(paid("evt_5", 0)) is not None
    assert await bench.findings() == []
    assert await bench.booked() == ["-5.00", "-2.00", "1.00", "-3.00", "20.00"]
    assert [chain async for chain in bench.tables[0].chains()] == [ALPHA]


async def test_rows_from_before_the_macs_are_adopted_as_they_were_found(bench: Bench) -> None:
    settled = False

    async def is_settled() -> bool:
        return settled

    macs = RowMacs(HashingMasterKey())
    macs.is_settled = is_settled
    upgraded = Bench(bench.database, bench.ledger, macs)
    await upgraded.take(refunded(500, "evt_1"))
    await upgraded.take(refunded(700, "evt_2", 1))
    await bench.deliveries.change("1 = 1", mac=None)
    await bench.registers.change("1 = 1", mac=None, base=None)
    await upgraded.take(refunded(800, "evt_3", 2))
    await bench.registers.change("1 = 1", mac=None, base=None)
    for table in upgraded.tables:
        await table.adopt()
    settled = True
    assert await upgraded.findings() == []
    assert await upgraded.take(refunded(900, "evt_4", 3)) is None
    assert await upgraded.booked() == ["-5.00", "-2.00", "-1.00", "-1.00"]
    assert await upgraded.findings() == []
