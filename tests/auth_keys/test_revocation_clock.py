"""A revocation holds from the moment a node learns of it, whatever the clocks of the nodes; graces go by the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

import precipiq_auth_keys
from precipiq_auth_keys.authenticator import KeyAuthenticator
from precipiq_auth_keys.key_trust import KeyTrust
from precipiq_auth_keys.kinds import EVENT_KINDS, KEY_REVOKED, KEY_ROTATED
from precipiq_auth_keys.plugin import _TENANT_TABLES
from precipiq_auth_keys.service import KeyService, NewKey
from precipiq_auth_keys.store import KeyRecord, KeyStore
from precipiq_auth_keys.watcher import KeyWatcher
from precipiq_chain.chain_format import statement_kind
from precipiq_contracts.chain import Chain
from precipiq_contracts.credential import Credential
from precipiq_contracts.database import Migration
from precipiq_core.system import SystemRandomness
from precipiq_testkit.clock import ManualClock
from precipiq_testkit.macs import ROW_MACS
from precipiq_testkit.postgres import PostgresDatabase
from tests.system.open_ledger import open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

MIGRATION = Migration("auth_keys", Path(precipiq_auth_keys.__file__).parent / "sql" / "migrations", _TENANT_TABLES)
HOUR_S = 3600.0


class Node:
    """A server process: it changes keys, and accepts those that its authenticator believes."""

    def __init__(self, store: KeyStore, ledger: object, off_s: float) -> None:
        self.clock = ManualClock()
        self.clock.step(off_s)
        trust = KeyTrust(store, ledger, ROW_MACS)  # type: ignore[arg-type]
        self.service = KeyService(store, ledger, trust, self.clock, SystemRandomness())  # type: ignore[arg-type]
        self._authenticator = KeyAuthenticator(store, trust, self.clock, cached_keys_max=10, fresh_s=4.0)
        self.service.on_change = self._authenticator.forget
        self._watcher = KeyWatcher(
            store, self.service, self._authenticator, self.clock, poll_s=1.0, last_used_interval_s=60.0
        )

    async def accepts(self, key: NewKey) -> bool:
        """After it has looked for changes, as it does every second."""
        await self._watcher.look()
        return await self._authenticator.authenticate(Credential(key.secret)) is not None


@pytest.fixture(params=[(0.0, -HOUR_S), (HOUR_S, 0.0), (-HOUR_S, HOUR_S), (0.0, 0.0)], ids=str)
async def nodes(
    request: pytest.FixtureRequest, server_database: PostgresDatabase | None, tmp_path: Path
) -> AsyncIterator[tuple[Node, Node]]:
    """The one that changes keys and another one; their clocks are off by that many seconds."""
    async with open_ledger(server_database, tmp_path, [MIGRATION], clock=ManualClock()) as (database, ledger):
        serve_kinds(ledger, EVENT_KINDS)
        one, other = (Node(KeyStore(database, ROW_MACS), ledger, off_s) for off_s in request.param)
        yield one, other


async def made(node: Node) -> tuple[Chain, NewKey]:
    organisation = await node.service.create_organisation("alpha")
    key = await node.service.create_key(organisation.org_id, "test", ["read"], None, "system")
    return key.record.chain, key


async def events(node: Node, chain: Chain) -> list[str]:
    return [statement_kind(entry.statement) for entry in await node.service._ledger.read(chain, 0, 100)][1:]


async def test_a_revoked_key_is_refused_everywhere_at_once(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    chain, key = await made(one)
    assert [await node.accepts(key) for node in nodes] == [True, True]
    await one.service.revoke(chain, key.record.key_id, "system")
    assert [await node.accepts(key) for node in nodes] == [False, False]
    await other.service.revoke(chain, key.record.key_id, "system")
    assert await events(one, chain) == [KEY_REVOKED]


async def test_a_key_replaced_without_a_grace_is_refused_everywhere_at_once(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    chain, key = await made(one)
    new = await one.service.rotate(chain, key.record.key_id, 0, "system")
    assert [await node.accepts(key) for node in nodes] == [False, False]
    assert [await node.accepts(new) for node in nodes] == [True, True]
    assert await events(one, chain) == [KEY_ROTATED]


async def test_a_revocation_ends_a_grace_whichever_clock_noted_it(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    chain, key = await made(one)
    await one.service.rotate(chain, key.record.key_id, 600, "system")
    assert await one.accepts(key)
    shown = await other.service.revoke(chain, key.record.key_id, "system")
    assert shown.is_revoked
    assert [await node.accepts(key) for node in nodes] == [False, False]
    assert await events(one, chain) == [KEY_ROTATED, KEY_REVOKED]


async def test_a_grace_lasts_as_long_as_it_was_given(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    chain, key = await made(one)
    await one.service.rotate(chain, key.record.key_id, 600, "system")
    for node in nodes:
        node.clock.advance(599)
    assert await one.accepts(key)
    for node in nodes:
        node.clock.advance(1)
    assert not await one.accepts(key)


def test_what_an_older_version_revoked_needs_no_clock_either() -> None:
    revoked = KeyRecord("key_0", Chain("o", "test"), "pq_test_", "0000", ("read",), 0, None, 10, None, None)
    assert not revoked.is_active(5)
    assert replace(revoked, replaced_by="key_1").is_active(5)
