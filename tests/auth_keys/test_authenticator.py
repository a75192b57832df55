"""The cache of verified keys: what it saves, and when it must not be believed."""

from __future__ import annotations

import asyncio
import json
import time
from hashlib import sha256
from typing import Any

import httpx2
import pytest

from precipiq_auth_keys import secret_format
from precipiq_auth_keys.authenticator import KeyAuthenticator
from precipiq_auth_keys.config import AuthKeysConfig
from precipiq_auth_keys.plugin import REVOCATION_WITHIN_S
from precipiq_auth_keys.secret_format import key_hash, make_key
from precipiq_auth_keys.store import KeyRecord
from precipiq_auth_keys.watcher import KeyWatcher
from precipiq_contracts import credential as credential_module
from precipiq_contracts.chain import Chain
from precipiq_contracts.credential import Credential
from precipiq_contracts.errors import Unavailable
from precipiq_core.http.authentication import identify, peer_of
from precipiq_testkit.clock import START_US, ManualClock
from precipiq_testkit.server import ServerProcess

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_a", "test")
FRESH_S = 4.0


def secret(number: int = 0) -> str:
    return make_key("test", number.to_bytes(32, "big"))


def record(number: int = 0, *, expires_us: int | None = None, revoked_us: int | None = None) -> KeyRecord:
    """With ``revoked_us``: of a key that another replaced, with a grace until then."""
    replaced_by = None if revoked_us is None else "key_new"
    return KeyRecord(
        f"key_{number}", CHAIN, "pq_test_", "0000", ("read",), START_US, expires_us, revoked_us, replaced_by, None
    )


class Store:
    """A key store in memory that counts its reads; ``gate`` holds them back, ``down`` refuses them."""

    def __init__(self, clock: ManualClock, *records: KeyRecord) -> None:
        self.clock = clock
        self.answer_time_s = 0.0
        self.by_hash = {key_hash(secret(int(item.key_id[4:]))): item for item in records}
        self.reads = 0
        self.changes = 0
        self.down = False
        self.gate: asyncio.Event | None = None
        self.touched: dict[str, int] = {}

    async def key_by_hash(self, secret_hash: str) -> KeyRecord | None:
        self.reads += 1
        if self.down:
            raise Unavailable
        found = self.by_hash.get(secret_hash)
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def change_count(self) -> int:
        if self.down:
            raise Unavailable
        self.clock.advance(self.answer_time_s)
        return self.changes

    async def touch(self, last_used_us: dict[str, int]) -> None:
        self.touched |= last_used_us


class Trusting:
    """Believes every row."""

    async def counts(self, key: KeyRecord) -> bool:
        return True


class Bench:
    """An authenticator over a store, with the watcher that keeps it fresh."""

    def __init__(self, *records: KeyRecord, cached_keys_max: int = 100) -> None:
        self.clock = ManualClock()
        self.store = Store(self.clock, *records)
        self.authenticator = KeyAuthenticator(
            self.store,
            Trusting(),
            self.clock,
            cached_keys_max=cached_keys_max,
            fresh_s=FRESH_S,  # type: ignore[arg-type]
        )
        self.watcher = KeyWatcher(
            self.store,
            None,
            self.authenticator,
            self.clock,
            poll_s=1.0,
            last_used_interval_s=60.0,  # type: ignore[arg-type]
        )

    async def accepts(self, number: int = 0) -> bool:
        return await self.authenticator.authenticate(Credential(secret(number))) is not None


async def test_a_verified_key_costs_no_database_read() -> None:
    bench = Bench(record())
    await bench.watcher.look()

    assert [await bench.accepts() for _ in range(50)] == [True] * 50
    assert bench.store.reads == 1


async def test_a_key_is_hashed_once_for_all_that_a_request_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the authenticator, by what tells streams of one key, and each time that an open stream's key is looked at."""
    hashed: list[bytes] = []

    def counting(data: bytes) -> Any:
        hashed.append(data)
        return sha256(data)

    bench = Bench(record())
    await bench.watcher.look()
    for module in (credential_module, secret_format):
        monkeypatch.setattr(module, "sha256", counting)
    credential = Credential(secret())
    peer = peer_of([bench.authenticator], {"type": "http"}, credential)
    for _ in range(3):
        assert await identify([bench.authenticator], credential) == await peer.recheck()

    assert hashed == [secret().encode()]
    assert peer.credential_id.hex() == key_hash(secret()) == credential.digest.hex()


async def test_an_unknown_key_is_asked_for_once_and_a_malformed_one_never() -> None:
    bench = Bench()
    await bench.watcher.look()

    for _ in range(10):
        assert not await bench.accepts(7)
        assert await bench.authenticator.authenticate(Credential(secret()[:-1] + "!")) is None
    assert bench.store.reads == 1


async def test_the_principal_is_the_keys_chain_scopes_and_ends() -> None:
    bench = Bench(record(expires_us=START_US + 9, revoked_us=START_US + 5))
    await bench.watcher.look()

    principal = await bench.authenticator.authenticate(Credential(secret()))

    assert principal is not None
    assert (principal.chain, principal.key_id, principal.scopes) == (CHAIN, "key_0", {"read"})
    assert (principal.expires_at_us, principal.revoked_at_us) == (START_US + 9, START_US + 5)


async def test_the_principal_of_a_key_without_an_end_has_none() -> None:
    bench = Bench(record())
    await bench.watcher.look()

    principal = await bench.authenticator.authenticate(Credential(secret()))

    assert principal is not None
    assert (principal.expires_at_us, principal.revoked_at_us) == (None, None)


async def test_a_rotation_with_a_grace_tells_the_principal_when_its_key_will_end() -> None:
    bench = Bench(record())
    await bench.watcher.look()
    before = await bench.authenticator.authenticate(Credential(secret()))
    bench.store.by_hash[key_hash(secret())] = record(revoked_us=START_US + 60_000_000)
    bench.store.changes += 1
    await bench.watcher.look()

    after = await bench.authenticator.authenticate(Credential(secret()))

    assert before is not None
    assert after is not None
    assert (before.revoked_at_us, after.revoked_at_us) == (None, START_US + 60_000_000)
    assert after.expires_at_us is None


@pytest.mark.parametrize("end", ["expires_us", "revoked_us"])
async def test_a_cached_key_ends_at_its_time_without_a_read(end: str) -> None:
    bench = Bench(record(**{end: START_US + 1_000_000}))
    await bench.watcher.look()
    before = await bench.accepts()
    bench.clock.advance(us=999_999)
    last = await bench.accepts()
    bench.clock.advance(us=1)

    assert (before, last, await bench.accepts()) == (True, True, False)


async def test_another_processs_revocation_empties_the_cache_at_the_next_look() -> None:
    bench = Bench(record())
    await bench.watcher.look()
    assert await bench.accepts()
    bench.store.by_hash[key_hash(secret())] = record(revoked_us=START_US)
    bench.store.changes += 1

    await bench.watcher.look()

    assert not await bench.accepts()


async def test_a_look_without_changes_keeps_the_cache() -> None:
    bench = Bench(record())
    for _ in range(10):
        await bench.watcher.look()
        assert await bench.accepts()
        bench.clock.advance(1.0)

    assert bench.store.reads == 1


async def test_the_cache_is_not_believed_when_the_database_cannot_be_asked() -> None:
    bench = Bench(record())
    await bench.watcher.look()
    assert await bench.accepts()
    bench.store.down = True
    bench.clock.advance(FRESH_S)
    assert await bench.accepts()
    bench.clock.advance(us=1)

    with pytest.raises(Unavailable):
        await bench.accepts()


async def test_a_slow_look_counts_from_when_it_was_asked() -> None:
    bench = Bench(record())
    bench.store.answer_time_s = FRESH_S
    await bench.watcher.look()
    assert await bench.accepts()
    assert await bench.accepts()
    assert bench.store.reads == 1

    bench.clock.advance(us=1)

    assert await bench.accepts()
    assert bench.store.reads == 2


async def test_nothing_is_cached_before_the_first_look() -> None:
    bench = Bench(record())
    bench.clock.advance(0.001)

    assert await bench.accepts()
    assert await bench.accepts()
    assert bench.store.reads == 2


async def test_the_cache_is_bounded() -> None:
    bench = Bench(*(record(number) for number in range(10)), cached_keys_max=3)
    await bench.watcher.look()
    for number in range(10):
        assert await bench.accepts(number)

    assert len(bench.authenticator._cache) == 3
    reads = bench.store.reads
    assert await bench.accepts(9)
    assert bench.store.reads == reads
    assert await bench.accepts(0)
    assert bench.store.reads == reads + 1


async def test_a_look_up_that_a_revocation_overtook_does_not_enter_the_cache() -> None:
    bench = Bench(record())
    await bench.watcher.look()
    bench.store.gate = asyncio.Event()
    looking = asyncio.create_task(bench.accepts())
    while bench.store.reads == 0:
        await asyncio.sleep(0)
    bench.store.by_hash[key_hash(secret())] = record(revoked_us=START_US)
    bench.authenticator.forget()
    bench.store.gate.set()
    await looking

    assert not await bench.accepts()


async def test_last_use_is_written_once_for_many_requests() -> None:
    bench = Bench(record())
    await bench.watcher.look()
    for _ in range(5):
        bench.clock.advance(us=10)
        assert await bench.accepts()

    await bench.watcher.write_last_used()

    assert bench.store.touched == {"key_0": START_US + 50}
    assert bench.authenticator.take_last_used() == {}


def test_poll_and_trust_together_stay_within_the_five_seconds_promised() -> None:
    longest = AuthKeysConfig(revocation_poll_s=4.0)

    assert REVOCATION_WITHIN_S == 5.0
    assert REVOCATION_WITHIN_S - longest.revocation_poll_s >= 1.0
    with pytest.raises(ValueError, match="revocation_poll_s"):
        AuthKeysConfig(revocation_poll_s=5.0)


def test_a_revocation_by_the_command_line_reaches_the_running_server(shared_server: ServerProcess) -> None:
    made = shared_server.run_warm("keys", "create", "--org", shared_server.org_id, "--env", "test", "--json")
    key = json.loads(made.stdout)
    url, headers = f"{shared_server.url}/api/v1/ledger/head", {"X-Precipiq-Key": key["key"]}
    assert httpx2.get(url, headers=headers).status_code == 200

    shared_server.run_warm("keys", "revoke", key["id"])
    deadline = time.monotonic() + 20
    while (status := httpx2.get(url, headers=headers).status_code) == 200 and time.monotonic() < deadline:
        time.sleep(0.1)

    assert status == 401
