"""The ledger refuses keys and names that are longer than a driver must take, and stores the longest that it must."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from precipiq_contracts.chain import Chain, Draft, EntryKind
from precipiq_contracts.entry_store import (
    ACTOR_BYTES_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX,
    KIND_BYTES_MAX,
    ORG_ID_BYTES_MAX,
)
from precipiq_contracts.errors import ValidationFailed
from precipiq_core.system import SystemRandomness
from precipiq_ledger.service import LedgerService, Limits
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.memory import MemoryDriver

pytestmark = pytest.mark.anyio

EMOJI = "\U0001f600"


def org_id(size: int) -> tuple[Chain, Draft]:
    return Chain(EMOJI * (size // 4) + "o" * (size % 4), "test"), Draft("note", "key", {})


def kind(size: int) -> tuple[Chain, Draft]:
    return Chain("org", "test"), Draft("k" * size, "key", {})


def actor(size: int) -> tuple[Chain, Draft]:
    return Chain("org", "test"), Draft("note", EMOJI * (size // 4) + "a" * (size % 4), {})


def key(size: int) -> tuple[Chain, Draft]:
    return Chain("org", "test"), Draft("note", "key", {}, None, EMOJI * (size // 4) + "k" * (size % 4))


@pytest.mark.parametrize(
    ("of_size", "bytes_max"),
    [
        (org_id, ORG_ID_BYTES_MAX),
        (kind, KIND_BYTES_MAX),
        (actor, ACTOR_BYTES_MAX),
        (key, IDEMPOTENCY_KEY_BYTES_MAX),
    ],
)
async def test_the_longest_is_stored_and_one_byte_more_is_refused(
    of_size: Callable[[int], tuple[Chain, Draft]], bytes_max: int
) -> None:
    ledger = LedgerService(ManualClock(), SystemRandomness(), Limits(256 * 1024, 64))
    kinds = ["note", "k" * KIND_BYTES_MAX, "k" * (KIND_BYTES_MAX + 1)]
    async with MemoryDriver().open() as store:
        ledger.start(store, {name: EntryKind(name, "a note") for name in kinds})
        chain, draft = of_size(bytes_max)
        assert (await ledger.append(chain, [draft])).created == (True,)
        chain, draft = of_size(bytes_max + 1)
        with pytest.raises(ValidationFailed, match=f"longer than {bytes_max} bytes"):
            await ledger.append(chain, [draft])
        assert len(await ledger.read(chain, 0, 10)) <= 1
