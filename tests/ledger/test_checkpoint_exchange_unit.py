"""Checkpoints that come from the database: whose are taken, and which are looked at again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import orjson
import pytest

from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.database import Row, Statement
from precipiq_ledger.checkpoint_exchange import CheckpointExchange
from precipiq_ledger.checkpoints import Checkpoint, CheckpointSigner
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_alpha", "test")
SECOND_US = 1_000_000


@dataclass
class Key:
    """A master key for tests."""

    name: str

    def derive(self, purpose: str) -> bytes:
        return sha256(f"{self.name} {purpose}".encode()).digest()


@dataclass
class Shared:
    """The table that all nodes write, and this node's files."""

    rows: list[Row] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def share(self, seq: int, shared_us: int, key: str = "ours") -> None:
        signed = CheckpointSigner(Key(key)).sign(CHAIN, Head(seq, "0" * 64, 0), 0)
        tenant = {"org_id": CHAIN.org_id, "environment": CHAIN.environment}
        self.rows.append({**tenant, "seq": seq, "line": orjson.dumps(signed).decode(), "shared_us": shared_us})

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """As the statement says: what comes after a place, in order."""
        names = ("shared_us", "org_id", "environment", "seq")
        after = tuple(statement.parameters[name] for name in names)
        places = {tuple(row[name] for name in names): row for row in self.rows}
        return [places[place] for place in sorted(places) if place > after]  # type: ignore[type-var, operator]

    async def keep(self, checkpoint: Checkpoint) -> None:
        self.kept.append(checkpoint.seq)

    async def note(self) -> None:
        """The real one writes the manifest."""


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def exchange(shared: Shared) -> CheckpointExchange:
    return CheckpointExchange(shared, CheckpointSigner(Key("ours")), shared, ManualClock())  # type: ignore[arg-type]


async def test_a_checkpoint_that_another_key_signed_is_not_taken(shared: Shared, exchange: CheckpointExchange) -> None:
    shared.share(2, 1, key="theirs")
    shared.share(1, 2)
    await exchange.fetch()
    assert shared.kept == [1]


async def test_a_checkpoint_that_comes_late_from_a_slow_clock_is_taken(
    shared: Shared, exchange: CheckpointExchange
) -> None:
    shared.share(1, 100 * SECOND_US)
    await exchange.fetch()
    shared.share(2, 70 * SECOND_US)
    await exchange.fetch()
    assert 2 in shared.kept
