"""A subscription's row gives a plan when this deployment wrote it and the organisation's chain announces that state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import precipiq_billing
from precipiq_billing.endpoint_store import EndpointStore
from precipiq_billing.kinds import kinds
from precipiq_billing.plans.service import UNKNOWN_ORGANISATION, PlanBook
from precipiq_billing.plans.store import SubscriptionStore
from precipiq_billing.plans.trust import PlanTrust
from precipiq_billing.service import FinancialEvents
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.database import Database, Scalar
from precipiq_contracts.errors import Unavailable
from precipiq_ledger.service import LedgerService
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.macs import ROW_MACS, HashingMasterKey
from precipiq_testkit.postgres import PostgresDatabase
from tests.billing.conftest import TABLES
from tests.billing.subscription_events import COMPANY, CONFIG, START_S, TEAM, subscription_event
from tests.system.forger import Forger
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

FOUND = [(ROW_UNANNOUNCED, "sub_one")]


@dataclass
class Bench:
    """Plans over a real ledger; ``forger``: writes the table of subscriptions."""

    database: Database
    ledger: LedgerService
    macs: RowMacs = ROW_MACS

    def __post_init__(self) -> None:
        store = SubscriptionStore(self.database, self.macs, EndpointStore(self.database, self.macs).events)
        self.store = store
        self.trust = PlanTrust(store, self.ledger, self.macs)
        self.book = PlanBook(store, self.trust, CONFIG, ManualClock(START_S * 1_000_000))
        self.forger = Forger(self.database, "plan_subscriptions")

    async def tell(self, second: int, status: str, prices: Sequence[str] = (TEAM,), **more: Any) -> str | None:
        kind = "deleted" if status == "canceled" else "updated"
        return await self.book.take(subscription_event(kind, START_S + second, status, tuple(prices), **more))

    async def plan(self, org_id: str = "org_one") -> str:
        """In a process that has nothing in memory, and says the same to the operator."""
        other = Bench(self.database, self.ledger, self.macs)
        await other.book.refresh()
        listed = {account.org_id: account.standing.plan for account in await other.book.accounts()}
        plan = other.book.of(org_id).plan
        assert listed.get(org_id, "free") == plan
        return plan

    async def findings(self, org_id: str = "org_one") -> list[tuple[str, str]]:
        return [(found.code, found.row) for found in await self.trust.audit(Chain(org_id, "live"))]

    async def put_back(self, rows: list[dict[str, Any]]) -> None:
        """So that every process looks at them again."""
        await self.forger.put_back([row | {"change": 100 + number} for number, row in enumerate(rows)])


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    migration = migration_of(precipiq_billing, "billing", TABLES)
    async with open_ledger(server_database, tmp_path, [migration]) as (database, ledger):
        serve_kinds(ledger, kinds(FinancialEvents(ledger).present))
        for org_id in ("org_one", "org_two"):
            await ledger.append(Chain(org_id, "test"), [Draft("decision", "key_1", {}, None)])
        yield Bench(database, ledger)


@pytest.mark.parametrize("price_ids", [f'["{COMPANY}"]', "no JSON"])
async def test_an_inserted_subscription_gives_no_plan(bench: Bench, price_ids: str) -> None:
    await bench.tell(0, "active", org_id="org_two")
    [row] = await bench.forger.rows()
    values = {"subscription_id": "sub_forged", "org_id": "org_one", "price_ids": price_ids, "change": 9}
    await bench.forger.insert(row | values)
    assert [await bench.plan(org_id) for org_id in ("org_one", "org_two")] == ["free", "team"]
    await bench.book.refresh()
    assert bench.book.of("org_one").plan == "free"
    assert await bench.findings() == [(ROW_UNANNOUNCED, "sub_forged")]
    assert await bench.findings("org_two") == []


@pytest.mark.parametrize(
    "change", [{"price_ids": f'["{COMPANY}"]'}, {"period_end_s": 2**40}, {"org_id": "org_two"}, {"mac": None}]
)
async def test_an_altered_subscription_gives_no_plan_until_stripe_tells_more_of_it(
    bench: Bench, change: dict[str, Scalar]
) -> None:
    await bench.tell(0, "active")
    await bench.forger.change("1 = 1", **change, change=9)
    assert [await bench.plan(org_id) for org_id in ("org_one", "org_two")] == ["free", "free"]
    assert await bench.findings("org_two" if "org_id" in change else "org_one") == FOUND
    assert await bench.tell(1, "active") is None
    assert await bench.plan() == "team"
    assert await bench.findings() == []


@pytest.mark.parametrize(
    "later", [("canceled", {}), ("active", {"org_id": "org_two"}), ("active", {"org_id": None}), ("unpaid", {})]
)
async def test_a_plan_that_was_given_up_does_not_come_back(bench: Bench, later: tuple[str, dict[str, Any]]) -> None:
    await bench.tell(0, "active")
    then = await bench.forger.rows()
    status, more = later
    await bench.tell(1, status, **more)
    assert await bench.findings() == await bench.findings("org_two") == []
    await bench.put_back(then)
    assert await bench.plan() == "free"
    await bench.book.refresh()
    assert bench.book.of("org_one").plan == "free"
    assert await bench.findings() == FOUND


async def test_a_change_that_is_hidden_from_a_process_reaches_it_with_the_audit(bench: Bench) -> None:
    await bench.tell(0, "active")
    other = Bench(bench.database, bench.ledger)
    await other.book.refresh()
    await bench.tell(1, "canceled")
    await bench.forger.change("1 = 1", change=0)
    await other.book.refresh()
    assert other.book.of("org_one").plan == "team"
    assert await other.findings() == []
    assert other.book.of("org_one").plan == "free"


async def test_the_chain_tells_of_every_change(bench: Bench) -> None:
    await bench.tell(0, "active")
    await bench.tell(1, "active", (COMPANY,), org_id="org_two")
    await bench.tell(2, "canceled", (COMPANY,), org_id="org_two")
    bodies = {
        org_id: [
            parse_statement(entry.statement).body
            for entry in await bench.ledger.read(Chain(org_id, "live"), 0, 10, "plan_subscription_changed")
        ]
        for org_id in ("org_one", "org_two")
    }
    assert [(body["status"], body["is_elsewhere"]) for body in bodies["org_one"]] == [
        ("active", False),
        ("active", True),
    ]
    assert [(body["price_ids"], body["is_deleted"]) for body in bodies["org_two"]] == [
        ([COMPANY], False),
        ([COMPANY], True),
    ]
    assert [await bench.findings(org_id) for org_id in bodies] == [[], []]


async def test_a_plan_counts_before_its_entry_is_sealed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(chain: Chain, drafts: Sequence[Draft]) -> None:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "append", down)
        assert await bench.tell(0, "active") is None
        assert await bench.plan() == "team"
        assert await bench.findings() == []
    await bench.trust.announce()
    assert await bench.plan() == "team"


async def test_a_misspelt_organisation_becomes_no_chain_and_gets_its_plan_once_it_is_there(bench: Bench) -> None:
    assert await bench.tell(0, "active", org_id="org_new") == UNKNOWN_ORGANISATION
    assert await bench.ledger.head(Chain("org_new", "live")) is None
    await bench.ledger.append(Chain("org_new", "test"), [Draft("decision", "key_1", {}, None)])
    assert await bench.tell(0, "active", org_id="org_new") is None
    assert await bench.plan("org_new") == "team"
    assert await bench.findings("org_new") == []


async def test_rows_from_before_the_macs_are_adopted_and_announced(bench: Bench) -> None:
    settled = False

    async def is_settled() -> bool:
        return settled

    macs = RowMacs(HashingMasterKey())
    macs.is_settled = is_settled
    upgraded = Bench(bench.database, bench.ledger, macs)
    await bench.tell(0, "active")
    [row] = await bench.forger.rows()
    await bench.forger.insert(row | {"subscription_id": "sub_two", "org_id": "org_two", "change": 2, "mac": None})
    await bench.forger.insert(row | {"subscription_id": "sub_three", "org_id": "org_gone", "change": 3, "mac": None})
    await bench.forger.change("1 = 1", mac=None)
    plans = [await upgraded.plan(org_id) for org_id in ("org_one", "org_two")]

    await upgraded.trust.adopt()
    await upgraded.trust.adopt()
    settled = True
    assert [await upgraded.plan(org_id) for org_id in ("org_one", "org_two")] == plans == ["team", "team"]
    assert [await upgraded.findings(org_id) for org_id in ("org_one", "org_two", "org_gone")] == [[], [], []]
    assert len(await bench.ledger.read(Chain("org_two", "live"), 0, 10)) == 1
    assert await bench.ledger.head(Chain("org_gone", "live")) is None
