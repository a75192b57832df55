"""A signing key counts when this deployment wrote its row and its chain announces it; an intruder's does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import precipiq_exports
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Draft
from precipiq_contracts.database import Database, Scalar
from precipiq_contracts.errors import Unavailable
from precipiq_core.outbox import OutboxEvent
from precipiq_exports.errors import KeyUnanchored
from precipiq_exports.job_store import JobStore
from precipiq_exports.kinds import CANCELLED, KINDS
from precipiq_exports.plugin import _TENANT_TABLES
from precipiq_exports.signing_key_store import SigningKeyStore
from precipiq_exports.signing_key_trust import SigningKeyTrust
from precipiq_exports.signing_keys import SigningKeys
from precipiq_ledger.service import LedgerService
from precipiq_macs.row_macs import KEY_UNANCHORED, RowMacs
from precipiq_testkit.clock import ManualClock, SeededRandomness
from precipiq_testkit.macs import ROW_MACS, HashingMasterKey
from precipiq_testkit.postgres import PostgresDatabase
from tests.system.forger import Forger
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

ALPHA, BETA = Chain("org_alpha", "test"), Chain("org_beta", "test")


@dataclass
class Signer:
    """Makes keys that sign nothing, one a second."""

    clock: ManualClock

    async def generate(self, context: Mapping[str, str]) -> tuple[bytes, bytes]:
        self.clock.advance(1)
        return f"public {context['key_id']}".encode(), f"wrapped {context['key_id']}".encode()


@dataclass
class Bench:
    """Signing keys over a real ledger; ``forger``: writes their table."""

    database: Database
    ledger: LedgerService
    macs: RowMacs = ROW_MACS

    def __post_init__(self) -> None:
        self.store = SigningKeyStore(self.database, self.macs)
        self.trust = SigningKeyTrust(self.store, self.ledger, self.macs)
        self.clock = ManualClock()
        signer = Signer(self.clock)
        self.keys = SigningKeys(self.store, self.trust, signer, self.ledger, self.clock, SeededRandomness())  # type: ignore[arg-type]
        self.forger = Forger(self.database, "signing_keys")

    async def findings(self, chain: Chain = ALPHA) -> list[tuple[str, str]]:
        return [(finding.code, finding.row) for finding in await self.trust.audit(chain)]

    async def announced(self, chain: Chain = ALPHA) -> list[tuple[str, object]]:
        entries = await self.ledger.read(chain, 0, 100)
        return [(statement.kind, statement.body["key_id"]) for statement in map(parse_statement, texts(entries))]

    async def published(self) -> list[str]:
        """Both lists of keys hold the same."""
        ids = [key.key_id for key in await self.keys.of_chain(ALPHA)]
        assert [key.key_id for key in await self.keys.of_organisation(ALPHA.org_id)] == ids
        return ids


def texts(entries: Any) -> list[bytes]:
    return [entry.statement for entry in entries]


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    migration = migration_of(precipiq_exports, "exports", tuple(_TENANT_TABLES))
    async with open_ledger(server_database, tmp_path, [migration]) as (database, ledger):
        serve_kinds(ledger, KINDS)
        yield Bench(database, ledger)


def forged_key(**changes: Scalar) -> dict[str, Scalar]:
    """A key whose private half the intruder has."""
    row: dict[str, Scalar] = {
        "key_id": "sk_forged",
        "org_id": ALPHA.org_id,
        "environment": ALPHA.environment,
        "public_key": "Zm9yZ2Vk",
        "wrapped_key": "Zm9yZ2Vk",
        "created_us": 1,
        "retired_us": None,
        "replaces": None,
        "announced_seq": 1,
        "mac": None,
    }
    return row | changes


@pytest.mark.parametrize(
    ("mac", "public_key"), [(None, "Zm9yZ2Vk"), ("é", "no base64"), ("of another row", "Zm9yZ2Vk")]
)
async def test_an_inserted_key_is_neither_announced_nor_published_and_signs_nothing(
    bench: Bench, mac: str | None, public_key: str
) -> None:
    neighbour = await bench.keys.current(BETA)
    stolen = (await bench.forger.rows())[0]["mac"]
    row = forged_key(mac=stolen if mac == "of another row" else mac, public_key=public_key)
    await bench.forger.insert(row)

    with pytest.raises(KeyUnanchored, match="not written by a server of this deployment"):
        await bench.keys.current(ALPHA)
    with pytest.raises(KeyUnanchored):
        await bench.keys.rotate(ALPHA, "key_1")
    assert await bench.announced() == []
    assert await bench.published() == []
    assert await bench.findings() == [(KEY_UNANCHORED, "sk_forged")]
    assert await bench.forger.rows("key_id = 'sk_forged'") == [row]
    assert await bench.keys.current(BETA) == replace(neighbour, mac=stolen)
    assert await bench.findings(BETA) == []


async def test_a_retired_key_that_is_inserted_beside_the_true_one_is_not_published(bench: Bench) -> None:
    key = await bench.keys.current(ALPHA)
    await bench.forger.insert(forged_key(retired_us=2, wrapped_key=None))
    assert await bench.published() == [key.key_id]
    assert await bench.findings() == [(KEY_UNANCHORED, "sk_forged")]
    assert (await bench.keys.current(ALPHA)).key_id == key.key_id


@pytest.mark.parametrize("announced_seq", [None, 1])
async def test_a_key_that_was_replaced_does_not_come_back(bench: Bench, announced_seq: int | None) -> None:
    first = await bench.keys.current(ALPHA)
    then = [row | {"announced_seq": announced_seq} for row in await bench.forger.rows()]
    second = await bench.keys.rotate(ALPHA, "key_1")
    await bench.forger.put_back(then)

    with pytest.raises(KeyUnanchored, match=f"the chain says that {second.key_id} replaced it"):
        await bench.keys.current(ALPHA)
    [shown] = await bench.keys.of_chain(ALPHA)
    assert (shown.key_id, shown.announced_seq, shown.retired_us is None) == (first.key_id, 1, False)
    assert set(await bench.findings()) == {(KEY_UNANCHORED, first.key_id), (KEY_UNANCHORED, second.key_id)}
    assert [key_id for _, key_id in await bench.announced()] == [first.key_id, second.key_id]


@pytest.mark.parametrize("change", [{"public_key": "Zm9yZ2Vk"}, {"wrapped_key": "Zm9yZ2Vk"}, {"replaces": "sk_0"}])
async def test_an_altered_row_signs_and_proves_nothing(bench: Bench, change: dict[str, Scalar]) -> None:
    key = await bench.keys.current(ALPHA)
    await bench.forger.change(f"key_id = '{key.key_id}'", **change)
    with pytest.raises(KeyUnanchored):
        await bench.keys.current(ALPHA)
    assert await bench.published() == []
    assert await bench.findings() == [(KEY_UNANCHORED, key.key_id)]


async def test_where_the_current_key_s_row_is_gone_no_other_takes_its_place_but_by_a_rotation(bench: Bench) -> None:
    lost = await bench.keys.current(ALPHA)
    await bench.forger.delete()
    with pytest.raises(KeyUnanchored, match="rotate the signing key"):
        await bench.keys.current(ALPHA)
    assert await bench.findings() == [(KEY_UNANCHORED, lost.key_id)]

    new = await bench.keys.rotate(ALPHA, "key_1")
    assert (await bench.announced())[1:] == [("signing_key_rotated", new.key_id)]
    assert (await bench.keys.current(ALPHA)).key_id == new.key_id
    assert await bench.findings() == []


async def test_an_honest_life_gives_no_finding(bench: Bench) -> None:
    first = await bench.keys.current(ALPHA)
    for _ in range(2):
        await bench.keys.rotate(ALPHA, "key_1")
        assert await bench.findings() == []
    last = await bench.keys.current(ALPHA)
    [secret] = [secret async for secret in bench.store.all()]
    assert await bench.store.replace(secret, b"wrapped anew")
    assert not await bench.store.replace(secret, b"wrapped by another process")

    kept = await bench.keys.current(ALPHA)
    assert (kept.key_id, kept.wrapped) == (last.key_id, b"wrapped anew")
    assert await bench.findings() == []
    await bench.keys.rotate(ALPHA, "key_1")
    assert await bench.findings() == []
    assert [key.announced_seq for key in await bench.keys.of_chain(ALPHA)] == [4, 3, 2, 1]
    assert (await bench.published())[-1] == first.key_id


async def test_rewrapping_makes_no_forged_row_count(bench: Bench) -> None:
    await bench.forger.insert(forged_key())
    [secret] = [secret async for secret in bench.store.all()]
    assert await bench.store.replace(secret, b"wrapped anew")
    with pytest.raises(KeyUnanchored):
        await bench.keys.current(ALPHA)
    assert await bench.findings() == [(KEY_UNANCHORED, "sk_forged")]


async def test_a_rotation_that_was_stored_is_announced_at_the_next_use(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(chain: Chain, drafts: list[Draft]) -> None:
        raise Unavailable

    old = await bench.keys.current(ALPHA)
    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "append", down)
        with pytest.raises(Unavailable):
            await bench.keys.rotate(ALPHA, "key_1")
    assert await bench.published() == [old.key_id]
    assert await bench.findings() == []

    new = await bench.keys.current(ALPHA)
    assert await bench.announced() == [("signing_key_created", old.key_id), ("signing_key_rotated", new.key_id)]
    assert await bench.published() == [new.key_id, old.key_id]


async def test_rows_from_before_the_macs_are_adopted_as_the_chain_announces_them(bench: Bench) -> None:
    settled = False

    async def is_settled() -> bool:
        return settled

    macs = RowMacs(HashingMasterKey())
    macs.is_settled = is_settled
    upgraded = Bench(bench.database, bench.ledger, macs)
    for chain in (ALPHA, BETA):
        await upgraded.keys.current(chain)
        await upgraded.keys.rotate(chain, "key_1")
    await bench.forger.change("1 = 1", mac=None)
    await bench.forger.insert(forged_key(retired_us=2))
    assert (await upgraded.keys.current(ALPHA)).mac is None

    await upgraded.trust.adopt()
    settled = True
    assert await upgraded.findings() == [(KEY_UNANCHORED, "sk_forged")]
    assert await upgraded.findings(BETA) == []
    assert (await upgraded.keys.current(ALPHA)).mac is not None


async def test_events_that_somebody_else_stored_become_no_entries(bench: Bench) -> None:
    jobs = JobStore(bench.database, ROW_MACS)
    event = OutboxEvent("2", ALPHA, CANCELLED, "key_1", {"export_id": "exp_1"})
    await bench.database.transaction([jobs.events.insert(event)])
    forger = Forger(bench.database, "export_events")
    [honest] = await forger.rows()
    for event_id in ("1", "3"):
        await forger.insert(honest | {"event_id": event_id})

    await jobs.events.deliver(bench.ledger)
    assert len(await bench.ledger.read(ALPHA, 0, 10)) == 1
    assert [row["event_id"] for row in await forger.rows()] == ["1", "3"]
