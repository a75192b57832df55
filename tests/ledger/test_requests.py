"""A request's key covers its drafts as a whole, whatever the door let through: a known batch with more is no retry."""

from __future__ import annotations

import pytest

from precipiq_contracts.chain import Chain, Draft, EntryKind
from precipiq_contracts.errors import IdempotencyConflict
from precipiq_core.system import SystemClock
from precipiq_ledger.service import LedgerService, Limits
from precipiq_testkit.clock import SeededRandomness
from precipiq_testkit.memory import MemoryDriver

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_1", "test")


def batch(count: int) -> list[Draft]:
    return [Draft("decision", "key_1", {"n": number}, {"metadata": None}, None) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
async def test_a_known_batch_with_more_or_fewer_drafts_is_a_conflict(count: int) -> None:
    async with MemoryDriver().open() as store:
        ledger = LedgerService(SystemClock(), SeededRandomness(), Limits(10_000, 64))
        ledger.start(store, {"decision": EntryKind("decision", "")})
        first = await ledger.append_request(CHAIN, batch(3), "a key")
        with pytest.raises(IdempotencyConflict):
            await ledger.append_request(CHAIN, batch(count), "a key")
        head = await ledger.head(CHAIN)
        assert head is not None
        assert head.seq == 3
        again = await ledger.append_request(CHAIN, batch(3), "a key")
        assert (again.entries, any(again.created)) == (first.entries, False)
