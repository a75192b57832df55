"""An intruder who writes the tables of keys by SQL: no row of his authenticates, and each is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import precipiq_auth_keys
from precipiq_auth_keys.authenticator import KeyAuthenticator
from precipiq_auth_keys.key_trust import KeyTrust
from precipiq_auth_keys.kinds import EVENT_KINDS
from precipiq_auth_keys.plugin import _TENANT_TABLES
from precipiq_auth_keys.secret_format import key_hash, make_key
from precipiq_auth_keys.service import KeyService, NewKey
from precipiq_auth_keys.store import KeyStore
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Draft, Entry, Head
from precipiq_contracts.credential import Credential
from precipiq_contracts.database import Database, Migration, Statement
from precipiq_contracts.errors import DeploymentError, NotFound, Unavailable
from precipiq_core.system import SystemRandomness
from precipiq_ledger.service import LedgerService
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.macs import HashingMasterKey
from precipiq_testkit.postgres import PostgresDatabase
from tests.system.open_ledger import open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

MIGRATION = Migration("auth_keys", Path(precipiq_auth_keys.__file__).parent / "sql" / "migrations", _TENANT_TABLES)
ALL = "key_id, org_id, environment, secret_hash, prefix, last_four, scopes, created_us, expires_us, revoked_us, "
ALL += "replaced_by, is_revoked, mac"
SECRET = make_key("test", bytes(range(32)))
"""The intruder's own."""


@dataclass
class Bench:
    """The service of keys over a ledger, and the intruder beside it."""

    database: Database
    ledger: LedgerService
    clock: ManualClock

    def __post_init__(self) -> None:
        self.macs = RowMacs(HashingMasterKey())
        self.store = KeyStore(self.database, self.macs)
        self.renew()
        self.service = KeyService(self.store, self.ledger, self.trust, self.clock, SystemRandomness())

    def renew(self) -> None:
        """As after a restart: nothing is remembered."""
        self.trust = KeyTrust(self.store, self.ledger, self.macs)
        self.authenticator = KeyAuthenticator(self.store, self.trust, self.clock, cached_keys_max=10, fresh_s=4.0)

    async def made(self, *scopes: Any) -> NewKey:
        organisation = await self.service.create_organisation("alpha")
        return await self.service.create_key(organisation.org_id, "test", scopes or ("read",), None, "system")

    async def sql(self, sql: str, **values: Any) -> list[Any]:
        """What the intruder does."""
        [rows] = await self.database.transaction([Statement(sql, values)])
        return list(rows)

    async def accepts(self, secret: str) -> bool:
        self.renew()
        return await self.authenticator.authenticate(Credential(secret)) is not None

    async def findings(self, chain: Chain) -> list[tuple[str, str]]:
        self.renew()
        return [(finding.code, finding.row) for finding in await self.trust.audit(chain)]

    async def copy_of(self, key_id: str) -> dict[str, Any]:
        return dict((await self.sql(f"SELECT {ALL} FROM api_keys WHERE key_id = :id", id=key_id))[0])

    async def put_back(self, row: dict[str, Any]) -> None:
        """A row as it was at an earlier time, with the MAC of that time."""
        assignments = ", ".join(f"{name} = :{name}" for name in row if name != "key_id")
        await self.sql(f"UPDATE api_keys SET {assignments} WHERE key_id = :key_id", **row)


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    clock = ManualClock()
    async with open_ledger(server_database, tmp_path, [MIGRATION], clock=clock) as (database, ledger):
        serve_kinds(ledger, EVENT_KINDS)
        yield Bench(database, ledger, clock)


async def insert(bench: Bench, chain: Chain, *, mac: str | None) -> str:
    columns = "key_id, org_id, environment, secret_hash, prefix, last_four, scopes, created_us, mac"
    await bench.sql(
        f"INSERT INTO api_keys ({columns}) VALUES ('key_intruder', :org, :env, :hash, 'pq_test_', '0000', "
        "'read write admin', 1, :mac)",
        org=chain.org_id,
        env=chain.environment,
        hash=key_hash(SECRET),
        mac=mac,
    )
    return SECRET


@pytest.mark.parametrize("mac", [None, "0" * 64, "", "é"])
async def test_an_inserted_key_opens_nothing_and_is_reported(bench: Bench, mac: str | None) -> None:
    honest = await bench.made()
    chain = honest.record.chain
    secret = await insert(bench, chain, mac=mac)
    assert (await bench.accepts(secret), await bench.accepts(honest.secret)) == (False, True)
    assert await bench.findings(chain) == [(ROW_UNANNOUNCED, "key_intruder")]
    assert [key.key_id for key in await bench.service.keys(chain)] == [honest.record.key_id]


async def test_no_operation_makes_an_inserted_key_count(bench: Bench) -> None:
    chain = (await bench.made()).record.chain
    secret = await insert(bench, chain, mac=None)
    for refused in (
        bench.service.rotate(chain, "key_intruder", 0, "x"),
        bench.service.revoke(chain, "key_intruder", "x"),
    ):
        with pytest.raises(NotFound):
            await refused
    assert not await bench.accepts(secret)
    assert (await bench.copy_of("key_intruder"))["mac"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": "read write admin"},
        {"secret_hash": key_hash(SECRET)},
        {"environment": "live"},
        {"expires_us": 1},
        {"expires_us": 2**62},
        {"created_us": 1},
        {"last_four": "0000"},
    ],
    ids=str,
)
async def test_an_altered_key_opens_nothing_and_is_reported(bench: Bench, change: dict[str, Any]) -> None:
    key = await bench.made()
    [(name, value)] = change.items()
    await bench.sql(f"UPDATE api_keys SET {name} = :value", value=value)
    assert [await bench.accepts(secret) for secret in (key.secret, SECRET)] == [False, False]
    chain = Chain(key.record.chain.org_id, "live") if name == "environment" else key.record.chain
    assert await bench.findings(chain) == [(ROW_UNANNOUNCED, key.record.key_id)]


async def test_a_key_of_another_tenant_cannot_be_moved(bench: Bench) -> None:
    one, other = await bench.made(), await bench.made("read", "write")
    await bench.sql(
        "UPDATE api_keys SET org_id = :org WHERE key_id = :key", org=one.record.chain.org_id, key=other.record.key_id
    )
    assert not await bench.accepts(other.secret)
    assert await bench.findings(one.record.chain) == [(ROW_UNANNOUNCED, other.record.key_id)]


async def test_a_row_from_before_the_revocation_does_not_bring_the_key_back(bench: Bench) -> None:
    key = await bench.made()
    row = await bench.copy_of(key.record.key_id)
    await bench.service.revoke(key.record.chain, key.record.key_id, "system")
    assert await bench.findings(key.record.chain) == []
    await bench.put_back(row)
    assert not await bench.accepts(key.secret)
    assert await bench.findings(key.record.chain) == [(ROW_UNANNOUNCED, key.record.key_id)]
    await bench.service.revoke(key.record.chain, key.record.key_id, "system")  # which mends it
    assert await bench.findings(key.record.chain) == []
    assert not await bench.accepts(key.secret)


async def test_a_row_from_before_the_rotation_does_not_bring_the_key_back(bench: Bench) -> None:
    old = await bench.made()
    row = await bench.copy_of(old.record.key_id)
    new = await bench.service.rotate(old.record.chain, old.record.key_id, 0, "system")
    await bench.put_back(row)
    assert [await bench.accepts(key.secret) for key in (old, new)] == [False, True]
    assert await bench.findings(old.record.chain) == [(ROW_UNANNOUNCED, old.record.key_id)]


async def test_an_event_that_somebody_puts_in_becomes_no_entry(bench: Bench) -> None:
    key = await bench.made()
    await insert(bench, key.record.chain, mac=None)
    body = '{"key_id":"key_intruder","environment":"test","prefix":"pq_test_","scopes":["read","write","admin"]}'
    for event_id, mac in (("0", None), ("zzzz", "0" * 64)):
        await bench.sql(
            "INSERT INTO key_events (event_id, org_id, environment, kind, actor, body, mac) "
            "VALUES (:event_id, :org, 'test', 'key_created', 'system', :body, :mac)",
            event_id=event_id,
            org=key.record.chain.org_id,
            body=body,
            mac=mac,
        )
    assert not await bench.accepts(SECRET)
    await bench.service.deliver_events()
    other = await bench.service.create_key(key.record.chain.org_id, "test", ("read",), None, "system")
    said = [parse_statement(entry.statement).body for entry in await bench.ledger.read(key.record.chain, 0, 100)]
    assert [body.get("key_id") for body in said] == [key.record.key_id, other.record.key_id]
    assert not await bench.accepts(SECRET)


async def test_an_old_event_that_is_sealed_again_brings_no_key_back(bench: Bench) -> None:
    """He takes the key beside the first entry away, so that the ledger does not know the event any more."""
    key = await bench.made("read")
    chain, key_id = key.record.chain, key.record.key_id
    row = await bench.copy_of(key_id)
    rotated = await bench.service.rotate(chain, key_id, 3600, "system")
    await bench.service.revoke(chain, rotated.record.key_id, "system")
    said = [parse_statement(entry.statement) for entry in await bench.ledger.read(chain, 0, 10)]
    for statement in said[:2]:  # sealed once more, with right MACs: no row of the outbox is left to refuse
        await bench.ledger.append(chain, [Draft(statement.kind, "system", statement.body, None, None)])
    await bench.put_back(row)
    await bench.sql(
        "UPDATE api_keys SET revoked_us = NULL, is_revoked = 0, mac = :mac WHERE key_id = :key_id",
        key_id=rotated.record.key_id,
        mac=bench.macs.mac(rotated.record.sealed),
    )
    assert [await bench.accepts(each.secret) for each in (key, rotated)] == [False, False]
    assert {row for _, row in await bench.findings(chain)} == {key_id, rotated.record.key_id}


async def test_a_cut_chain_makes_a_server_forget_no_revocation(bench: Bench) -> None:
    key = await bench.made("read")
    row = await bench.copy_of(key.record.key_id)
    await bench.service.revoke(key.record.chain, key.record.key_id, "system")
    head = await bench.ledger.head(key.record.chain)
    assert head is not None
    assert await bench.trust.audit(key.record.chain) == []
    await bench.put_back(row)

    async def cut(chain: Chain) -> Head:
        return replace(head, seq=head.seq - 1)

    bench.ledger.head = cut  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="was there"):
        await bench.trust.counts(key.record)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("value", [b"\xff", 5, 1.5])
async def test_a_value_of_another_type_opens_nothing_and_stops_nothing(bench: Bench, value: object) -> None:
    """SQLite keeps values of any type in any column."""
    key, other = await bench.made(), await bench.made()
    for column in ("mac", "prefix"):
        await bench.sql(f"UPDATE api_keys SET {column} = :value WHERE key_id = :id", id=key.record.key_id, value=value)
        assert not await bench.accepts(key.secret)
        assert await bench.findings(key.record.chain) == [(ROW_UNANNOUNCED, key.record.key_id)]
    assert await bench.accepts(other.secret)


async def test_an_honest_life_of_keys_is_no_finding(bench: Bench) -> None:
    first = await bench.made("read", "write")
    chain = first.record.chain
    bench.clock.step(-3600)
    second = await bench.service.rotate(chain, first.record.key_id, 60, "system")
    assert [await bench.accepts(key.secret) for key in (first, second)] == [True, True]
    await bench.service.revoke(chain, first.record.key_id, "system")
    bench.clock.step(7200)
    expires_us = bench.clock.now_us() + 10_000_000
    third = await bench.service.create_key(chain.org_id, "test", ("read",), expires_us, "system")
    await bench.store.touch({third.record.key_id: 5})
    await bench.service.rotate(chain, third.record.key_id, 0, "system")
    assert await bench.findings(chain) == []
    assert [await bench.accepts(key.secret) for key in (first, second, third)] == [False, True, False]


async def test_a_key_whose_entry_waits_works_and_is_no_finding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*arguments: object) -> object:
        raise Unavailable

    with monkeypatch.context() as patched:
        patched.setattr(bench.ledger, "append", down)
        key = await bench.made()
        assert await bench.accepts(key.secret)
        assert await bench.findings(key.record.chain) == []
    await bench.service.deliver_events()
    assert await bench.accepts(key.secret)


async def test_a_key_that_only_a_forged_entry_announces_opens_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_is_authentic(chain: Chain, entries: list[Entry]) -> Entry | None:
        return entries[0] if entries else None

    key = await bench.made()
    bench.ledger.authenticate = none_is_authentic  # type: ignore[assignment]
    assert not await bench.accepts(key.secret)
    assert await bench.findings(key.record.chain) == [(ROW_UNANNOUNCED, key.record.key_id)]


async def test_keys_from_before_the_macs_are_adopted_once_and_only_if_the_chain_tells_of_them(bench: Bench) -> None:
    settled = False

    async def is_settled() -> bool:
        return settled

    bench.macs.is_settled = is_settled
    old, other = await bench.made(), await bench.made()
    chain = old.record.chain
    await bench.sql("UPDATE api_keys SET mac = NULL WHERE key_id = :id", id=old.record.key_id)
    await bench.sql("UPDATE api_keys SET mac = :mac WHERE key_id = :id", id=other.record.key_id, mac="0" * 64)
    secret = await insert(bench, chain, mac=None)
    assert await bench.accepts(old.secret)
    assert not await bench.accepts(secret), "the chain does not tell of it"
    await bench.trust.adopt()
    settled = True
    assert [await bench.accepts(each) for each in (old.secret, other.secret, secret)] == [True, True, False]
    assert await bench.findings(chain) == [(ROW_UNANNOUNCED, "key_intruder")]
    record = replace(await bench.store.key(chain, old.record.key_id) or old.record, mac=None)
    assert (await bench.copy_of(old.record.key_id))["mac"] == bench.macs.mac(record.sealed)


async def test_a_command_before_there_is_a_master_key_leaves_its_rows_to_the_first_start(bench: Bench) -> None:
    class NoMasterKey:
        def derive(self, purpose: str) -> bytes:
            raise DeploymentError(["none"])

    async def not_settled() -> bool:
        return False

    macs = RowMacs(NoMasterKey())
    macs.is_settled = not_settled
    store = KeyStore(bench.database, macs)
    trust = KeyTrust(store, bench.ledger, macs)
    service = KeyService(store, bench.ledger, trust, bench.clock, SystemRandomness())
    organisation = await service.create_organisation("early")
    key = await service.create_key(organisation.org_id, "test", ("read",), None, "system")
    assert (await bench.copy_of(key.record.key_id))["mac"] is None
    assert not await bench.accepts(key.secret)
    bench.macs.is_settled = not_settled
    await bench.trust.adopt()
    bench.macs = RowMacs(HashingMasterKey())
    assert await bench.accepts(key.secret)
