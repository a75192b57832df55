"""Which requests for bytes of a bundle share an entry: over time, over nodes, after faults between the two stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

import precipiq_exports
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.auth import Principal
from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.credential import Credential
from precipiq_contracts.database import Migration
from precipiq_contracts.entry_store import Appended
from precipiq_contracts.errors import Unavailable
from precipiq_core.http.endpoint import Peer
from precipiq_core.http.settings import HttpSettings
from precipiq_core.outbox import OutboxEvent
from precipiq_exports.download_store import DownloadStore, RecordedDownload
from precipiq_exports.downloads import Downloads
from precipiq_exports.errors import ExportExpired
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import Job, Lease, Request
from precipiq_exports.kinds import DOWNLOADED, KINDS
from precipiq_exports.metrics import ExportMetrics
from precipiq_exports.sending import Sending
from precipiq_ledger.service import LedgerService, Limits
from precipiq_testkit.clock import ManualClock, SeededRandomness
from precipiq_testkit.macs import ROW_MACS
from precipiq_testkit.memory import MemoryDriver
from precipiq_testkit.postgres import PostgresDatabase
from tests.databases import new_database

pytestmark = pytest.mark.anyio

MIGRATIONS = Path(precipiq_exports.__file__).parent / "sql" / "migrations"
TABLES = dict.fromkeys(("exports", "signing_keys", "export_events", "export_downloads"), ("org_id", "environment"))
CHAIN = Chain("org_alpha", "test")
SESSION_S = 100.0
SIZE = 1000


class FaultyLedger:
    """A ledger that a node loses, before or after its entry is sealed."""

    def __init__(self, ledger: LedgerService) -> None:
        self._ledger = ledger
        self.fails_before = self.fails_after = False
        self.get = ledger.get

    async def append(self, chain: Chain, drafts: Sequence[Draft]) -> Appended:
        if self.fails_before:
            raise Unavailable("the store is away")
        appended = await self._ledger.append(chain, drafts)
        if self.fails_after:
            raise Unavailable("the outcome is unknown")
        return appended


@dataclass
class Node:
    """A process of the deployment, with a clock and a ledger of its own over common stores."""

    downloads: Downloads
    clock: ManualClock
    ledger: FaultyLedger

    async def asked(self, job: Job, start: int = 1, end: int = SIZE, key: str = "key_1") -> RecordedDownload:
        return await self.downloads.begin(job, key, start, end)


@dataclass
class Site:
    """Two nodes, and a finished export. ``store``: of the tables; ``ledger``: of the chain."""

    one: Node
    two: Node
    job: Job
    store: DownloadStore
    jobs: JobStore
    ledger: LedgerService

    async def entries(self) -> list[str]:
        """The ids of the downloads in the chain."""
        statements = [parse_statement(entry.statement) for entry in await self.ledger.read(CHAIN, 0, 100)]
        assert {statement.kind for statement in statements} <= {DOWNLOADED}
        return [str(statement.body["download_id"]) for statement in statements]

    async def counts(self) -> list[tuple[int, int, int]]:
        """Requests, asked and sent bytes of the downloads, oldest first."""
        found = await self.store.page(CHAIN, self.job.export_id, None, 100)
        return [(download.requests, download.asked_bytes, download.sent_bytes) for download in found][::-1]


async def finished(jobs: JobStore) -> Job:
    """An export with a bundle."""
    times = (1, None, None, None)
    export_id = f"exp_{'1' * 32}"
    job = Job(export_id, CHAIN, "pending", Request(), "key_1", *times, 0, 0, None, 0.0, None, None, {}, None)
    event = OutboxEvent(f"{export_id}:0", CHAIN, "export_requested", "key_1", {"export_id": export_id})
    assert await jobs.add(job, None, event, open_max=9)
    claimed = await jobs.claim("one", 2, 3, per_organisation_max=9, after_org="", tests=True)
    assert claimed is not None
    done = replace(claimed, finished_us=5, expires_us=10**18, size_bytes=SIZE, sha256="ab" * 32, result={})
    assert await jobs.complete(Lease(export_id, 1, "one"), done, event)
    found = await jobs.get(CHAIN, export_id)
    assert found is not None
    return found


@pytest.fixture
async def site(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Site]:
    settings = {"migrate_at_start": True} if server_database is None else server_database.settings()
    database = new_database(settings, tmp_path)
    async with database.open([Migration("exports", MIGRATIONS, TABLES)]), MemoryDriver().open() as entry_store:
        ledger = LedgerService(ManualClock(), SeededRandomness(), Limits(10_000, 64))
        ledger.start(entry_store, {kind.name: kind for kind in KINDS})
        store, jobs = DownloadStore(database), JobStore(database, ROW_MACS)
        nodes = []
        for seed in (1, 2):
            clock, own = ManualClock(), FaultyLedger(ledger)
            metrics = ExportMetrics(CollectorRegistry())
            downloads = Downloads(store, own, clock, SeededRandomness(seed), metrics, SESSION_S)  # type: ignore[arg-type]
            nodes.append(Node(downloads, clock, own))
        yield Site(*nodes, await finished(jobs), store, jobs, ledger)


async def test_parts_share_an_entry_until_the_session_is_over_whichever_node_is_asked(site: Site) -> None:
    first = await site.one.asked(site.job)
    site.two.clock.advance(SESSION_S)
    assert (await site.two.asked(site.job, 0, 10)).download_id == first.download_id
    site.two.clock.advance(1)
    assert (await site.two.asked(site.job, 0, 10)).download_id != first.download_id
    assert await site.counts() == [(2, SIZE - 1 + 10, 0), (1, 10, 0)]
    assert len(await site.entries()) == 2


async def test_nodes_whose_clocks_differ_agree_and_a_clock_far_off_costs_an_entry(site: Site) -> None:
    site.one.clock.advance(SESSION_S / 2)
    first = await site.one.asked(site.job)
    assert (await site.two.asked(site.job)).download_id == first.download_id
    site.two.clock.step(-2 * SESSION_S)
    assert (await site.two.asked(site.job)).download_id != first.download_id


async def test_requests_that_arrive_together_make_one_entry(site: Site) -> None:
    asked = [node.asked(site.job, start) for start in range(1, 9) for node in (site.one, site.two)]
    found = await asyncio.gather(*asked)
    assert len({download.download_id for download in found}) == len(await site.entries()) == 1
    assert [requests for requests, _, _ in await site.counts()] == [16]


@pytest.mark.parametrize("end", [SIZE, SIZE - 1], ids=["whole", "part"])
async def test_while_nothing_can_be_sealed_nothing_is_counted_and_nothing_piles_up(site: Site, end: int) -> None:
    site.one.ledger.fails_before = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await site.one.asked(site.job, 0, end)
    assert (await site.entries(), await site.counts()) == ([], [])
    site.one.ledger.fails_before = False
    await site.one.asked(site.job, 0, end)
    assert (len(await site.entries()), await site.counts()) == (1, [(1, end, 0)])


async def test_an_entry_whose_node_died_is_used_by_the_next_request_and_not_much_later(site: Site) -> None:
    site.one.ledger.fails_after = True
    with pytest.raises(Unavailable):
        await site.one.asked(site.job)
    await site.two.asked(site.job, 0, SIZE)
    assert (len(await site.entries()), await site.counts()) == (1, [(1, SIZE, 0)])
    with pytest.raises(Unavailable):
        await site.one.asked(site.job, 0, SIZE)
    site.two.clock.advance(SESSION_S + 1)
    await site.two.asked(site.job, 0, SIZE)
    assert len(await site.entries()) == 3, "an entry is not used for bytes that leave much later"


async def test_a_bundle_that_was_deleted_meanwhile_is_gone(site: Site) -> None:
    event = OutboxEvent("deleted", CHAIN, "export_deleted", "key_1", {})
    assert await site.jobs.delete(CHAIN, site.job.export_id, 9, event)
    with pytest.raises(ExportExpired):
        await site.one.asked(site.job)
    assert await site.entries() == []


async def test_sent_bytes_are_counted_and_told_to_the_log(site: Site) -> None:
    download = await site.one.asked(site.job)
    with structlog.testing.capture_logs() as lines:
        await site.one.downloads.end(download, 1, 700)
    assert await site.counts() == [(1, SIZE - 1, 700)]
    [line] = lines
    assert (line["download_id"], line["first_byte"], line["sent_bytes"]) == (download.download_id, 1, 700)
    assert (line["actor"], line["entry_seq"], line["export_id"]) == ("key_1", 1, site.job.export_id)


class Recheck:
    """What authenticators say of the key, in turn; the last word is repeated."""

    def __init__(self, *words: Principal | Exception | None) -> None:
        self.words = list(words)
        self.asked = 0

    async def __call__(self) -> Principal | None:
        self.asked += 1
        word = self.words[0] if len(self.words) == 1 else self.words.pop(0)
        if isinstance(word, Exception):
            raise word
        return word


PRINCIPAL = Principal(CHAIN, "key_1", frozenset({"export"}))


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ([PRINCIPAL], True),
        ([None], False),
        ([replace(PRINCIPAL, scopes=frozenset({"read"}))], False),
        ([replace(PRINCIPAL, key_id="key_2")], False),
    ],
)
async def test_a_key_must_be_accepted_as_long_as_bytes_are_sent(words: list[Any], allowed: bool) -> None:
    clock, recheck = ManualClock(), Recheck(*words)
    peer = Peer(None, Credential("k").digest, recheck, lambda _: None)
    nothing: Any = None
    sending = Sending(nothing, nothing, "key_1", peer, clock, HttpSettings())
    assert await sending.may_go_on()
    assert recheck.asked == 0
    clock.advance(1.0)
    assert await sending.may_go_on() is allowed
    assert recheck.asked == 1


async def test_bytes_are_held_back_while_no_authenticator_can_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recheck = ManualClock(), Recheck(Unavailable("away"), Unavailable("away"), PRINCIPAL, Unavailable("away"))
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    monkeypatch.setattr("precipiq_exports.sending.asyncio.sleep", wait)
    nothing: Any = None
    peer = Peer(None, b"", recheck, lambda _: None)
    sending = Sending(nothing, nothing, "key_1", peer, clock, HttpSettings(download_stall_timeout_s=60))
    clock.advance(1.0)
    assert await sending.may_go_on()
    assert waits == [1.0, 1.0]
    clock.advance(1.0)
    assert not await sending.may_go_on()
    assert 60 <= sum(waits[2:]) <= 62
