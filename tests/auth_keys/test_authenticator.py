"""The cache of verified keys: no database read in the usual case, and never a revoked key for long."""

from __future__ import annotations

import pytest
from precipiq_auth_keys.authenticator import KeyAuthenticator
from precipiq_auth_keys.secret_format import key_hash, make_key
from precipiq_auth_keys.store import KeyRecord
from precipiq_core.contracts.chain import Chain
from precipiq_core.contracts.credential import Credential
from precipiq_core.errors import Unavailable
from precipiq_testkit.clock import ManualClock, SeededRandomness

pytestmark = pytest.mark.anyio

FRESH_S = 4.0


class CountingStore:
    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.reads = 0
        self.down = False

    async def key_by_hash(self, secret_hash: str) -> KeyRecord | None:
        self.reads += 1
        if self.down:
            raise Unavailable
        return self.records.get(secret_hash)


class Setup:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = CountingStore()
        self.randomness = SeededRandomness(1)
        self.authenticator = KeyAuthenticator(self.store, self.clock, cached_keys_max=3, fresh_s=FRESH_S)  # type: ignore[arg-type]
        self.authenticator.refreshed()

    def key(self, **changes: object) -> str:
        secret = make_key("test", self.randomness.bytes(32))
        fields: dict[str, object] = {
            "key_id": f"key_{len(self.store.records)}",
            "chain": Chain("org_a", "test"),
            "prefix": "pq_test_",
            "last_four": secret[-4:],
            "scopes": ("read",),
            "created_us": 0,
            "expires_us": None,
            "revoked_us": None,
            "replaced_by": None,
            "last_used_us": None,
        }
        self.store.records[key_hash(secret)] = KeyRecord(**{**fields, **changes})  # type: ignore[arg-type]
        return secret

    async def accepts(self, secret: str) -> bool:
        return await self.authenticator.authenticate(Credential(secret)) is not None


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_a_verified_key_costs_one_read_for_many_requests(setup: Setup) -> None:
    secret = setup.key()
    for _ in range(100):
        assert await setup.accepts(secret)
    assert setup.store.reads == 1


async def test_an_unknown_key_is_remembered_as_well(setup: Setup) -> None:
    unknown = make_key("test", setup.randomness.bytes(32))
    for _ in range(10):
        assert not await setup.accepts(unknown)
    assert setup.store.reads == 1


async def test_a_malformed_key_costs_no_read(setup: Setup) -> None:
    assert not await setup.accepts("pq_test_nonsense")
    assert not await setup.accepts("")
    assert setup.store.reads == 0


async def test_after_forgetting_the_database_is_asked_again(setup: Setup) -> None:
    secret = setup.key()
    assert await setup.accepts(secret)
    setup.store.records.clear()
    setup.authenticator.forget()
    assert not await setup.accepts(secret)


async def test_without_news_from_the_database_the_cache_is_not_trusted(setup: Setup) -> None:
    secret = setup.key()
    assert await setup.accepts(secret)
    setup.clock.advance(FRESH_S + 0.1)
    setup.store.down = True
    with pytest.raises(Unavailable):
        await setup.accepts(secret)


async def test_expiry_and_revocation_count_also_for_cached_keys(setup: Setup) -> None:
    now_us = setup.clock.now_us()
    expiring = setup.key(expires_us=now_us + 1_000_000)
    ending = setup.key(revoked_us=now_us + 1_000_000)
    assert await setup.accepts(expiring)
    assert await setup.accepts(ending)
    setup.clock.advance(1.0)
    assert not await setup.accepts(expiring)
    assert not await setup.accepts(ending)


async def test_the_cache_is_bounded(setup: Setup) -> None:
    for secret in [setup.key() for _ in range(20)]:
        assert await setup.accepts(secret)
    assert len(setup.authenticator._cache) <= 3


async def test_a_look_up_that_crosses_a_revocation_does_not_enter_the_cache(setup: Setup) -> None:
    secret = setup.key()
    original = setup.store.key_by_hash

    async def revoked_meanwhile(secret_hash: str) -> KeyRecord | None:
        record = await original(secret_hash)
        setup.authenticator.forget()
        setup.store.records.clear()
        return record

    setup.store.key_by_hash = revoked_meanwhile  # type: ignore[method-assign]
    await setup.accepts(secret)
    assert not await setup.accepts(secret)
