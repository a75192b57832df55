"""What happens side by side in the ledger, over the driver in memory: erasures, and verifications that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Draft, Entry, EntryKind
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import Unavailable
from precipiq_core.system import SystemRandomness
from precipiq_ledger import verifier as verifier_module
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.errors import AlreadyRedacted
from precipiq_ledger.late_answer import LateAnswer
from precipiq_ledger.service import LedgerService, Limits
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.memory import MemoryDriver
from tests.ledger.intruders import Signing

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_alpha", "test")
WAIT_S = 20.0


async def test_erasures_at_the_same_time_are_one_redaction() -> None:
    """Each has found the payload before the first of them appends."""
    ledger = LedgerService(ManualClock(), SystemRandomness(), Limits(256 * 1024, 64))
    async with MemoryDriver().open() as store:
        ledger.start(store, {name: EntryKind(name, "a kind") for name in ("note", "redaction")})
        [entry] = (await ledger.append(CHAIN, [Draft("note", "key", {}, {"text": "secret"})])).entries
        stored = await ledger.read(CHAIN, 0, 1)
        assert stored == [entry]
        erasing = (ledger.redact(CHAIN, _id_of(entry), "note", f"reason {n % 2}", "key") for n in range(8))
        ended = await asyncio.gather(*erasing, return_exceptions=True)

        redactions = [each for each in ended if not isinstance(each, BaseException)]
        assert len({redaction.hash for redaction in redactions}) == 1
        refused = [each for each in ended if isinstance(each, AlreadyRedacted)]
        assert (len(redactions), len(refused)) == (4, 4), "those with another reason are told that it was not theirs"
        head = await ledger.head(CHAIN)
        assert head is not None
        assert head.seq == 2


def _id_of(entry: Entry) -> str:
    return parse_statement(entry.statement).id


async def test_a_verification_that_could_not_be_carried_out_gives_its_place_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def last_seq(self, chain: Chain) -> int:
            raise Unavailable("the store is away")

    monkeypatch.setattr(verifier_module, "_WAIT_FOR_A_TURN_S", 0.1)
    limits = VerifierLimits(3, 2, 1000, 1, 100)
    verifier = Verifier(Signing(), CheckpointFiles(tmp_path), limits)
    for _ in range(3):
        with pytest.raises(Unavailable, match="the store is away"):
            await verifier.verify(Away(), CHAIN)  # type: ignore[arg-type]


class Empty:
    """An auditor of empty chains."""

    def last_seq(self, chain: Chain) -> int:
        return 0

    def batches(self, *_: object) -> Iterator[AuditBatch]:
        return iter(())

    def stray(self, chain: Chain) -> None:
        return None


class Held(Empty):
    """One that answers when it is let go."""

    def __init__(self) -> None:
        self.let_go = Event()
        self.running: list[Chain] = []

    def last_seq(self, chain: Chain) -> int:
        self.running.append(chain)
        assert self.let_go.wait(WAIT_S)
        return 0


async def test_one_chain_and_test_leave_a_verification_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_module, "_WAIT_FOR_A_TURN_S", 0.05)
    verifier = Verifier(Signing(), CheckpointFiles(tmp_path), VerifierLimits(3, 2, 1000, 2, 100))
    held = Held()
    running = [asyncio.create_task(verifier.verify(held, CHAIN))]  # type: ignore[arg-type]
    try:
        await asyncio.sleep(0)
        for chain in (CHAIN, Chain("org_beta", "test")):
            with pytest.raises(Unavailable, match="too many verifications"):
                await verifier.verify(held, chain)  # type: ignore[arg-type]
        running.append(asyncio.create_task(verifier.verify(held, Chain("org_beta", "live"))))  # type: ignore[arg-type]
        async with asyncio.timeout(WAIT_S):
            while len(held.running) < 2:
                await asyncio.sleep(0)
    finally:
        held.let_go.set()
    assert len(await asyncio.gather(*running)) == 2


def test_a_verification_that_gets_no_turn_is_refused_before_its_answer_has_begun() -> None:
    """Else its client got a status 200 and a broken answer."""
    assert LateAnswer.patience_s > verifier_module._WAIT_FOR_A_TURN_S


async def test_the_sweep_waits_behind_no_crowd_of_its_chains_own_verifications(tmp_path: Path) -> None:
    verifier = Verifier(Signing(), CheckpointFiles(tmp_path), VerifierLimits(3, 2, 1000, 2, 100))
    held = Held()
    crowd = [asyncio.create_task(verifier.verify(held, CHAIN)) for _ in range(20)]  # type: ignore[arg-type]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S / 2):
            verdict = await verifier.verify(Empty(), CHAIN, is_ours=True)  # type: ignore[arg-type]
        assert verdict.verdict == "could_not_check"
        assert len(held.running) == 1, "the crowd was to wait meanwhile"
    finally:
        held.let_go.set()
        await asyncio.gather(*crowd)
