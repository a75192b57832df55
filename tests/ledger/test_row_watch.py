"""The comparison of rows with their chains, in turns: bounded, fair, and stopped by no chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import ChainBreak, ChainVerdict, CheckpointComparison
from precipiq_ledger.adoption_marks import ROWS, AdoptionMarks
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.row_trust import RowTrust
from precipiq_ledger.row_watch import FINDINGS_NAMED_MAX, RowWatch
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

CHAINS = [Chain(f"org_{number}", "test") for number in range(6)]


class Table:
    """Rows of all chains; comparing those of a chain takes a second."""

    name = "vouchers"

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.findings: dict[Chain, Sequence[RowFinding]] = {}
        self.failing: set[Chain] = set()
        self.audited: list[Chain] = []

    async def chains(self) -> AsyncIterator[Chain]:
        for chain in CHAINS:
            yield chain

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        self.audited.append(chain)
        self.clock.advance(1)
        if chain in self.failing:
            raise KeyError("unforeseen")
        return self.findings.get(chain, ())

    async def adopt(self) -> None: ...


class Site:
    def __init__(self, folder: Path, round_s: float) -> None:
        self.clock = ManualClock()
        self.table = Table(self.clock)
        self.rows = rows = RowTrust(None, AdoptionMarks(folder, None, lambda: b"", ROWS))
        rows.tables = [self.table]
        self.integrity = Integrity(self.clock, SweepMetrics(CollectorRegistry()), 100.0)
        self.watch = RowWatch(rows, self.integrity, self.clock, round_s)


async def test_a_round_is_bounded_and_the_next_goes_on_where_it_ended(tmp_path: Path) -> None:
    site = Site(tmp_path, 2.0)
    for _ in range(3):
        await site.watch.look()
    assert sorted(site.table.audited, key=lambda chain: chain.org_id) == CHAINS
    await site.watch.look()
    assert site.table.audited[6:] == site.table.audited[:2]


async def test_a_chain_that_cannot_be_compared_keeps_no_other_from_it(tmp_path: Path) -> None:
    site = Site(tmp_path, 100.0)
    site.table.failing = {CHAINS[0], CHAINS[3]}
    site.table.findings = {CHAINS[5]: [RowFinding(ROW_UNANNOUNCED, "v", "nobody said so")]}
    for _ in range(2):
        with pytest.raises(KeyError, match="unforeseen"):
            await site.watch.look()
        assert site.integrity.book.rows.keys() == {CHAINS[5]}
    assert site.table.audited == CHAINS * 2
    with pytest.raises(Unavailable, match=ROW_UNANNOUNCED):
        await site.integrity.tell()


async def test_a_verdict_without_its_rows_is_none(tmp_path: Path) -> None:
    site = Site(tmp_path, 100.0)
    holds = ChainVerdict("unanchored", 1, None, 1, "a" * 64, 1, CheckpointComparison(0, 0, None, None), ())
    site.table.findings = {CHAINS[1]: [RowFinding(ROW_UNANNOUNCED, "v", "nobody said so")]}
    judged = await site.rows.judged(CHAINS[1], holds)
    assert (judged.verdict, judged.is_valid, judged.broken) == ("failed", False, judged.findings[0])
    assert await site.rows.judged(CHAINS[2], holds) == holds
    site.table.failing = set(CHAINS)
    with pytest.raises(Unavailable, match="cannot be compared"):
        await site.rows.judged(CHAINS[2], holds)
    broken = replace(holds, verdict="failed", broken=ChainBreak(1, "SEQ_GAP", "?"))
    assert (await site.rows.judged(CHAINS[2], broken)).broken == broken.broken


async def test_what_is_found_is_bounded_and_gone_when_it_is_gone(tmp_path: Path) -> None:
    site = Site(tmp_path, 100.0)
    site.table.findings = {CHAINS[1]: [RowFinding(ROW_UNANNOUNCED, str(number), "?") for number in range(1000)]}
    await site.watch.look()
    assert len(site.integrity.book.rows[CHAINS[1]]) == FINDINGS_NAMED_MAX
    record = site.integrity.record(CHAINS[1])
    assert (record["verdict"], record["is_valid"], len(record["unannounced_rows"])) == ("failed", False, 20)
    site.table.findings = {}
    await site.watch.look()
    assert site.integrity.book.rows == {}


async def test_a_finding_of_a_chain_whose_rows_are_gone_is_gone(tmp_path: Path) -> None:
    site = Site(tmp_path, 100.0)
    nowhere = Chain("org_of_nobody", "live")
    site.integrity.note_rows(nowhere, (RowFinding(ROW_UNANNOUNCED, "v", "?"),))
    await site.watch.look()
    assert site.integrity.book.rows == {}
