"""An export's row gives something out when this deployment wrote it: its request, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import precipiq_exports
from precipiq_chain.chain_format import statement_kind
from precipiq_contracts.chain import SYSTEM, Chain
from precipiq_contracts.database import Database, Scalar
from precipiq_core.outbox import OutboxEvent
from precipiq_exports import kinds
from precipiq_exports.job_store import JobStore
from precipiq_exports.job_trust import JobTrust
from precipiq_exports.jobs import Job, Request
from precipiq_exports.plugin import _TENANT_TABLES
from precipiq_exports.records import export_record
from precipiq_exports.service import _request_event, lease_of
from precipiq_ledger.service import LedgerService
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs
from precipiq_testkit.macs import ROW_MACS, HashingMasterKey
from precipiq_testkit.postgres import PostgresDatabase
from tests.system.forger import Forger
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

ALPHA, BETA = Chain("org_alpha", "test"), Chain("org_beta", "test")


@dataclass
class Bench:
    """Exports over a real ledger, without runners; ``forger``: writes their table."""

    database: Database
    ledger: LedgerService
    macs: RowMacs = ROW_MACS

    def __post_init__(self) -> None:
        self.store = JobStore(self.database, self.macs)
        self.trust = JobTrust(self.database, self.store.events, self.ledger, self.macs)
        self.forger = Forger(self.database, "exports")

    async def add(self, number: int, chain: Chain = ALPHA) -> Job:
        times = (number, None, None, None)
        request, rest = Request(agent_id="ä"), (0, 0, None, 0.0, None, None, {}, None)
        job = Job(f"exp_{number:032x}", chain, "pending", request, "key_1", *times, *rest)
        assert await self.store.add(job, None, _request_event(job), open_max=10)
        return job

    async def claim(self) -> Job | None:
        return await self.store.claim("one", 1, 2, per_organisation_max=10, after_org="", tests=True)

    async def complete(self, entries: int = 3) -> Job:
        job = await self.claim()
        assert job is not None
        result = {"entries": entries}
        done = replace(
            job, status="completed", progress=1.0, finished_us=2, expires_us=9, size_bytes=7, sha256="ab", result=result
        )
        event = OutboxEvent(f"{job.export_id}:1", job.chain, kinds.COMPLETED, SYSTEM, {"export": export_record(done)})
        assert await self.store.complete(lease_of(job, "one"), done, event)
        return done

    async def findings(self, chain: Chain = ALPHA) -> list[tuple[str, str]]:
        return [(finding.code, finding.row) for finding in await self.trust.audit(chain)]


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    migration = migration_of(precipiq_exports, "exports", tuple(_TENANT_TABLES))
    async with open_ledger(server_database, tmp_path, [migration]) as (database, ledger):
        serve_kinds(ledger, kinds.KINDS)
        yield Bench(database, ledger)


async def test_an_export_that_somebody_else_stored_is_not_made_and_delays_no_other(bench: Bench) -> None:
    honest = await bench.add(9)
    [row] = await bench.forger.rows()
    for number, request in enumerate((row["request"], "no JSON")):
        await bench.forger.insert(row | {"export_id": f"exp_{number:032x}", "created_us": 0, "request": request})
    await bench.forger.change(f"export_id = 'exp_{0:032x}'", has_files=1)

    claimed = await bench.claim()
    assert claimed is not None
    assert claimed.export_id == honest.export_id
    assert await bench.claim() is None
    assert [job.export_id for job in await bench.store.page(ALPHA, None, 1)] == [honest.export_id]
    assert await bench.store.get(ALPHA, f"exp_{0:032x}") is None
    assert await bench.store.with_leftovers(1) == []
    assert await bench.findings() == [(ROW_UNANNOUNCED, f"exp_{number:032x}") for number in range(2)]


@pytest.mark.parametrize("change", [{"sha256": "cd"}, {"expires_us": 10}, {"attempt": 2}, {"org_id": BETA.org_id}])
async def test_a_bundle_is_given_out_as_it_was_made_or_not_at_all(bench: Bench, change: dict[str, Scalar]) -> None:
    await bench.add(1)
    done, other = await bench.complete(), await bench.add(2, BETA)
    assert await bench.store.get(ALPHA, done.export_id) == done
    assert await bench.findings() == []
    await bench.forger.change(f"export_id = '{done.export_id}'", **change)
    for chain in (ALPHA, BETA):
        assert await bench.store.get(chain, done.export_id) is None
    chain = BETA if "org_id" in change else ALPHA
    assert await bench.findings(chain) == [(ROW_UNANNOUNCED, done.export_id)]
    assert await bench.store.get(BETA, other.export_id) == other


async def test_an_export_that_waits_is_not_completed_by_a_row(bench: Bench) -> None:
    job = await bench.add(1)
    values = {"status": "completed", "sha256": "cd", "size_bytes": 7, "expires_us": 9, "finished_us": 2}
    await bench.forger.change("1 = 1", **values, result='{"entries":3}', attempt=1)
    assert await bench.store.get(ALPHA, job.export_id) is None
    assert await bench.findings() == [(ROW_UNANNOUNCED, job.export_id)]


async def test_an_export_that_is_set_back_ends_once_in_the_chain_and_delays_no_other_event(bench: Bench) -> None:
    await bench.add(1)
    await bench.complete()
    await bench.store.events.deliver(bench.ledger)
    await bench.forger.change("1 = 1", status="pending", result_mac=None, lease_owner=None)
    again = await bench.complete(entries=4)
    await bench.add(2)
    await bench.store.events.deliver(bench.ledger)
    told = [statement_kind(entry.statement) for entry in await bench.ledger.read(ALPHA, 0, 10)]
    assert told == [kinds.REQUESTED, kinds.COMPLETED, kinds.REQUESTED]
    assert [event.event_id for event in await bench.store.events.fetch_waiting(10)] == [f"{again.export_id}:1"]


async def test_rows_from_before_the_macs_are_adopted_as_the_chain_tells_of_them(bench: Bench) -> None:
    settled = False

    async def is_settled() -> bool:
        return settled

    macs = RowMacs(HashingMasterKey())
    macs.is_settled = is_settled
    upgraded = Bench(bench.database, bench.ledger, macs)
    await upgraded.add(1)
    done, waiting = await upgraded.complete(), await upgraded.add(2)
    [row, _] = await bench.forger.rows()
    await bench.forger.insert(row | {"export_id": f"exp_{3:032x}", "request": "no JSON"})
    await bench.forger.change("1 = 1", mac=None, result_mac=None)
    assert await upgraded.store.get(ALPHA, done.export_id) == done

    await upgraded.trust.adopt()
    settled = True
    assert await upgraded.findings() == [(ROW_UNANNOUNCED, f"exp_{3:032x}")]
    assert [await upgraded.store.get(ALPHA, job.export_id) for job in (done, waiting)] == [done, waiting]
