"""One round of the sweep beside chains and files that fail: the others are checked all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from precipiq_chain.verify import Anchor, Stretch
from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.ledger import CheckpointComparison
from precipiq_ledger.anchors import Compared
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.sweep_book import SweepBook
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.sweep_limits import SweepLimits
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.sweep_worker import Checked
from precipiq_ledger.sweeper import Sweeper
from precipiq_macs.entry_macs import MacCheck
from precipiq_testkit.clock import ManualClock
from tests.ledger.intruders import Signing

pytestmark = pytest.mark.anyio

CHAINS = [Chain(f"org_{number}", "test") for number in range(5)]
UNREADABLE = CHAINS[0]
LENGTH = 3


class Stored:
    """A store of equal chains, their checking, and their checkpoints. One chain can never be checked."""

    def auditor(self) -> Any:
        return None

    async def chains(self) -> AsyncIterator[Chain]:
        for chain in CHAINS:
            yield chain

    async def head(self, chain: Chain) -> Head:
        return Head(LENGTH, "a" * 64, 1)

    async def check_of(self, chain: Chain) -> MacCheck:
        return MacCheck(b"")

    async def check(self, chain: Chain, after: Anchor, through_seq: int, macs: object) -> Checked:
        if chain == UNREADABLE:
            raise KeyError("unforeseen")
        return Checked(Stretch(through_seq - after.seq, Anchor(through_seq, "a" * 64), None), 0.0)

    async def rest(self) -> None: ...

    def checkpointed_chains(self) -> set[Chain]:
        return set()

    async def compare_with_checkpoints(self, *_: object) -> Compared:
        return Compared(CheckpointComparison(0, 0, None, None), ())

    async def verify(self, *_: object, is_ours: bool) -> Any:
        return SimpleNamespace(broken=None)


class Site:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        metrics = SweepMetrics(CollectorRegistry())
        self.integrity = Integrity(self.clock, metrics, 100.0)
        stored: Any = Stored()
        self.file = SweepFile(folder, Signing())
        limits = SweepLimits(10.0, 100.0, 1.0, 2)
        self.sweeper = Sweeper(self.integrity, stored, stored, self.file, self.clock, limits, stored, metrics)

    def whole(self) -> set[Chain]:
        return {chain for chain, swept in self.integrity.book.chains.items() if swept.last is not None}


@pytest.fixture
def anchored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long chains begin with their newest part."""
    monkeypatch.setattr("precipiq_ledger.sweeper.anchor_at", lambda *_: Anchor(1, "a" * 64))


@pytest.mark.usefixtures("anchored")
async def test_a_chain_that_cannot_be_checked_stops_no_other(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyError):
            await site.sweeper.sweep()
        assert site.whole() == set(CHAINS[1:])
    before = {chain: site.integrity.book.chains[chain].since_s for chain in CHAINS[1:]}
    site.clock.advance(60)
    with pytest.raises(KeyError):
        await site.sweeper.sweep()
    after = {chain: site.integrity.book.chains[chain].since_s for chain in CHAINS[1:]}
    assert all(after[chain] > before[chain] for chain in after), "another pass of each"


@pytest.mark.usefixtures("anchored")
async def test_a_record_that_cannot_be_read_once_is_read_in_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock was given back: else this process would wait for itself for ever."""
    site = Site(tmp_path)
    read = site.file.read

    def fails() -> SweepBook | None:
        monkeypatch.setattr(site.file, "read", read)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(site.file, "read", fails)
    with pytest.raises(OSError, match="Input/output"):
        await site.sweeper.sweep()
    with pytest.raises(KeyError):
        await site.sweeper.sweep()
    assert site.whole() == set(CHAINS[1:])
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", ".sweep.lock"}
