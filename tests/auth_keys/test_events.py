"""Key events: stored with the change of the key itself, sealed once, whatever fails in between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

import precipiq_auth_keys.plugin
from precipiq_auth_keys import store as key_store
from precipiq_auth_keys.errors import KeyNotActive, TooManyKeys
from precipiq_auth_keys.key_trust import KeyTrust
from precipiq_auth_keys.plugin import AuthKeysPlugin
from precipiq_auth_keys.service import KeyService
from precipiq_auth_keys.store import KeyStore
from precipiq_chain.chain_format import ID_RANDOM_BYTES, prepare, seal_entries
from precipiq_contracts.chain import Chain, Draft, Entry, Head
from precipiq_contracts.clock import uuid7
from precipiq_contracts.database import Migration, Scalar
from precipiq_contracts.errors import NotFound, Unavailable
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_macs.row_macs import SealedValues
from precipiq_testkit.clock import START_US, ManualClock, SeededRandomness
from precipiq_testkit.macs import ROW_MACS, row_macs_of
from precipiq_testkit.postgres import PostgresDatabase
from precipiq_testkit.server import ServerProcess
from tests.databases import new_database

pytestmark = pytest.mark.anyio

MIGRATIONS = Path(precipiq_auth_keys.plugin.__file__).parent / "sql" / "migrations"
TABLES = {
    "organisations": ("org_id", None),
    "api_keys": ("org_id", "environment"),
    "key_events": ("org_id", "environment"),
}


def sealed_statement(seq: int, chain: Chain, draft: Draft) -> bytes:
    prepared = prepare(draft, b"")
    [entry] = seal_entries(chain, None, [prepared], now_us=START_US + seq, randomness=bytes(ID_RANDOM_BYTES))
    return entry.statement


class FakeLedger:
    """Keeps what it is given, once per idempotency key; ``down`` refuses everything."""

    def __init__(self) -> None:
        self.sealed: dict[str | None, tuple[Chain, Draft]] = {}
        self.down = False

    async def head(self, chain: Chain) -> Head | None:
        return Head(len(self.sealed), "", 0) if self.sealed else None

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        return [
            Entry(chain, seq, "", sealed_statement(seq, chain, draft), None)
            for seq, (_, draft) in enumerate(self.sealed.values(), start=1)
            if seq > after_seq and draft.kind == kind
        ][:limit]

    async def first_unauthentic(self, chain: Chain, entries: Sequence[Entry]) -> Entry | None:
        return None

    async def append(self, chain: Chain, drafts: Sequence[Draft]) -> None:
        if self.down:
            raise Unavailable
        for draft in drafts:
            self.sealed.setdefault(draft.idempotency_key, (chain, draft))


class Bench:
    """The service over a real database and a ledger that can be down."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self.ledger = FakeLedger()
        self.clock = ManualClock()
        self.trust = KeyTrust(store, self.ledger, ROW_MACS)  # type: ignore[arg-type]
        self.service = KeyService(store, self.ledger, self.trust, self.clock, SeededRandomness())  # type: ignore[arg-type]

    def kinds(self) -> list[str]:
        return [draft.kind for _, draft in self.ledger.sealed.values()]


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    settings = {"migrate_at_start": True} if server_database is None else server_database.settings()
    database = new_database(settings, tmp_path)
    async with database.open([Migration("auth_keys", MIGRATIONS, TABLES)]):
        yield Bench(KeyStore(database, ROW_MACS))


async def make(bench: Bench) -> tuple[Chain, str]:
    organisation = await bench.service.create_organisation("o")
    new = await bench.service.create_key(organisation.org_id, "live", ["read"], None, "system")
    return new.record.chain, new.record.key_id


def test_the_tables_named_here_are_the_plugins() -> None:
    [migration] = AuthKeysPlugin(AuthKeysPlugin.Config()).migrations(None)  # type: ignore[arg-type]

    assert (migration.location, dict(migration.tenant_tables)) == (MIGRATIONS, TABLES)


async def test_a_key_made_while_the_ledger_is_down_works_and_its_event_is_sealed_later(bench: Bench) -> None:
    bench.ledger.down = True
    chain, key_id = await make(bench)
    assert [key.key_id for key in await bench.service.keys(chain)] == [key_id]
    assert [event.kind for event in await bench.store.events.fetch_waiting(10)] == ["key_created"]

    bench.ledger.down = False
    await bench.service.deliver_events()
    await bench.service.deliver_events()

    [(sealed_in, draft)] = bench.ledger.sealed.values()
    assert (sealed_in, draft.actor, draft.payload, draft.body["key_id"]) == (chain, "system", None, key_id)
    assert await bench.store.events.fetch_waiting(10) == []


async def test_events_are_sealed_in_the_order_in_which_they_happened(bench: Bench) -> None:
    bench.ledger.down = True
    chain, key_id = await make(bench)
    bench.clock.advance(1)
    new = await bench.service.rotate(chain, key_id, 60, "key_x")
    bench.clock.advance(1)
    await bench.service.revoke(chain, new.record.key_id, "key_x")
    bench.clock.advance(1)
    await bench.service.revoke(chain, key_id, "key_x")

    bench.ledger.down = False
    await bench.service.deliver_events()

    assert bench.kinds() == ["key_created", "key_rotated", "key_revoked", "key_revoked"]


async def test_more_events_than_are_taken_at_once_are_all_sealed(bench: Bench) -> None:
    bench.ledger.down = True
    organisation = await bench.service.create_organisation("o")
    for _ in range(120):
        await bench.service.create_key(organisation.org_id, "test", ["read"], None, "system")

    bench.ledger.down = False
    await bench.service.deliver_events()

    assert len(bench.ledger.sealed) == 120
    assert await bench.store.events.fetch_waiting(1) == []


async def test_what_is_refused_leaves_neither_a_key_nor_an_event(bench: Bench) -> None:
    chain, key_id = await make(bench)
    await bench.service.revoke(chain, key_id, "system")
    before = await bench.service.keys(chain)

    with pytest.raises(KeyNotActive):
        await bench.service.rotate(chain, key_id, 0, "system")
    with pytest.raises(NotFound):
        await bench.service.revoke(Chain(chain.org_id, "test"), key_id, "system")
    with pytest.raises(NotFound):
        await bench.service.create_key("org_none", "test", ["read"], None, "system")
    await bench.service.revoke(chain, key_id, "system")

    assert await bench.service.keys(chain) == before
    assert bench.kinds() == ["key_created", "key_revoked"]


async def test_a_rotation_that_lost_the_race_leaves_neither_a_key_nor_an_event(bench: Bench) -> None:
    chain, key_id = await make(bench)
    old = await bench.store.key(chain, key_id)
    assert old is not None
    await bench.service.rotate(chain, key_id, 60, "system")
    kinds, keys = bench.kinds(), await bench.service.keys(chain)
    loser = bench.service._make(chain, ("read",), None)
    event = bench.service._event(chain, "key_rotated", "system", {"key_id": key_id})

    assert not await bench.store.replace_key(old, 0, loser.record, event)

    await bench.service.deliver_events()
    assert (bench.kinds(), await bench.service.keys(chain)) == (kinds, keys)


async def test_of_first_organisations_that_are_made_at_the_same_time_one_is_stored(bench: Bench) -> None:
    made = await asyncio.gather(*(bench.service.create_first_organisation(f"o{number}") for number in range(8)))
    [first] = [organisation for organisation in made if organisation is not None]
    assert await bench.store.organisations() == [first]


def put_event(server: ServerProcess, event_id: str, body: dict[str, Any], *, is_ours: bool = True) -> None:
    row: dict[str, Scalar] = {
        "event_id": event_id,
        "org_id": server.org_id,
        "environment": "test",
        "kind": "key_created",
        "actor": "system",
        "body": json.dumps(body, separators=(",", ":")),
    }
    mac = row_macs_of(server.data_dir).mac(SealedValues("key_events", row)) if is_ours else "0" * 64
    columns, values = (", ".join(part) for part in ((*row, "mac"), map(repr, (*row.values(), mac))))
    server.sql(f"INSERT INTO key_events ({columns}) VALUES ({values})")


def waiting(server: ServerProcess) -> int:
    return int(server.sql("SELECT count(*) FROM key_events")[0][0])


def sealed(server: ServerProcess, body: dict[str, Any]) -> int:
    deadline = time.monotonic() + 20
    while waiting(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    answer = httpx2.get(
        f"{server.url}/api/v1/ledger/entries", params={"limit": 500}, headers={"X-Precipiq-Key": server.key}
    )
    return [item["statement"]["body"] for item in answer.json()["data"]["items"]].count(body)


def test_an_event_that_a_crash_left_behind_is_sealed_at_the_next_start_exactly_once(server: ServerProcess) -> None:
    event_id = uuid7(SystemClock().now_us(), SystemRandomness().bytes(10))
    body = {"key_id": "key_x", "environment": "test", "prefix": "pq_test_", "scopes": ["read"]}
    server.kill()
    put_event(server, event_id, body)
    after_the_row = (waiting(server), server.start() and sealed(server, body))
    server.kill()
    put_event(server, event_id, body)  # as it stands when the crash comes after the entry, before the row is forgotten
    after_the_entry = (waiting(server), server.start() and sealed(server, body))

    assert after_the_row == after_the_entry == (1, 1)
    assert waiting(server) == 0


async def test_active_keys_are_bounded_and_ended_ones_make_room(bench: Bench) -> None:
    """A grace keeps a key active; its end, an expiry and a revocation end it."""
    service = KeyService(
        bench.store,
        bench.ledger,  # type: ignore[arg-type]
        bench.trust,
        bench.clock,
        SeededRandomness(),
        active_max=3,
    )
    organisation = await service.create_organisation("o")
    chain = Chain(organisation.org_id, "live")

    async def create(expires_us: int | None = None, environment: Any = "live") -> str:
        made = await service.create_key(organisation.org_id, environment, ["read"], expires_us, "system")
        return made.record.key_id

    first, second = await create(), await create()
    await create(bench.clock.now_us() + 10_000_000)
    with pytest.raises(TooManyKeys):
        await create()
    with pytest.raises(TooManyKeys):
        await service.rotate(chain, first, 5, "system")
    await create(environment="test")
    await service.rotate(chain, first, 0, "system")
    await service.revoke(chain, second, "system")
    replaced = await create()
    bench.clock.advance(11)
    await service.rotate(chain, replaced, 5, "system")
    with pytest.raises(TooManyKeys):
        await create()
    bench.clock.advance(6)
    await create()


async def test_a_list_of_many_keys_is_whole_and_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_store, "_PAGE", 3)
    organisation = await bench.service.create_organisation("o")
    made = []
    for number in range(8):
        new = await bench.service.create_key(organisation.org_id, "live", ["read"], None, "system")
        made.append((-new.record.created_us, new.record.key_id))
        bench.clock.advance(number % 2)
    listed = await bench.service.keys(Chain(organisation.org_id, "live"))
    assert [(-key.created_us, key.key_id) for key in listed] == sorted(made)
