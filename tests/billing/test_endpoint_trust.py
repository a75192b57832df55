"""A Stripe endpoint takes deliveries when this deployment wrote its row and the chain announces it as it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import precipiq_billing
from precipiq_billing.endpoint_store import EndpointStore, StripeEndpoint
from precipiq_billing.endpoint_trust import EndpointTrust
from precipiq_billing.endpoints import EndpointLimits, StripeEndpoints
from precipiq_billing.errors import SignatureInvalid
from precipiq_billing.kinds import kinds
from precipiq_billing.live_endpoints import LiveEndpoints
from precipiq_billing.service import FinancialEvents
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.database import Database, Scalar
from precipiq_contracts.errors import NotFound, Unavailable
from precipiq_ledger.service import LedgerService
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs
from precipiq_testkit.clock import ManualClock, SeededRandomness
from precipiq_testkit.macs import ROW_MACS, HashingMasterKey
from precipiq_testkit.postgres import PostgresDatabase
from tests.billing import stripe_events as stripe
from tests.billing.conftest import TABLES
from tests.system.forger import Forger
from tests.system.open_ledger import migration_of, open_ledger, serve_kinds

pytestmark = pytest.mark.anyio

ALPHA, BETA = Chain("org_alpha", "test"), Chain("org_beta", "test")
OLD, NEW, OTHER = (stripe.new_secret() for _ in range(3))


class Vault:
    """Hides nothing."""

    async def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        return secret

    async def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        return wrapped


@dataclass
class Bench:
    """Endpoints over a real ledger; ``forger``: writes their table."""

    database: Database
    ledger: LedgerService
    macs: RowMacs = ROW_MACS

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.store = EndpointStore(self.database, self.macs)
        self.trust = EndpointTrust(self.store, self.ledger, self.macs)
        limits = EndpointLimits(10, 1000)
        self.endpoints = StripeEndpoints(
            self.store, self.trust, Vault(), self.ledger, self.clock, SeededRandomness(), limits  # type: ignore[arg-type]
        )  # fmt: skip
        self.forger = Forger(self.database, "stripe_endpoints")

    async def make(self, chain: Chain = ALPHA, secret: str | None = OLD) -> StripeEndpoint:
        return (await self.endpoints.create(chain, None, secret, "key_1"))[0]

    async def takes(self, endpoint: StripeEndpoint, secret: str) -> bool:
        """In a process that has nothing in memory; by the endpoint's URL and by its chain, which must agree."""
        live = LiveEndpoints(self.store, self.trust, Vault(), self.clock, refresh_s=5.0, cached_max=10)  # type: ignore[arg-type]
        signature = stripe.signature(b"{}", secret, self.clock.now_us() / 1_000_000)
        taken = []
        for check in (live.check_endpoint(endpoint.endpoint_id, b"{}", signature),
                      live.check_chain(endpoint.chain, b"{}", signature)):  # fmt: skip
            try:
                await check
                taken.append(True)
            except (NotFound, SignatureInvalid):
                taken.append(False)
        assert taken[0] == taken[1]
        return taken[0]

    async def findings(self, chain: Chain = ALPHA) -> list[tuple[str, str]]:
        return [(finding.code, finding.row) for finding in await self.trust.audit(chain)]


@pytest.fixture
async def bench(server_database: PostgresDatabase | None, tmp_path: Path) -> AsyncIterator[Bench]:
    migration = migration_of(precipiq_billing, "billing", TABLES)
    async with open_ledger(server_database, tmp_path, [migration]) as (database, ledger):
        serve_kinds(ledger, kinds(FinancialEvents(ledger).present))
        yield Bench(database, ledger)


@pytest.mark.parametrize("secret", ["encoded", "no base64"])
async def test_an_inserted_endpoint_takes_nothing(bench: Bench, secret: str) -> None:
    neighbour = await bench.make()
    [row] = await bench.forger.rows()
    values = {"endpoint_id": "we_forged"} | ({"secret": secret} if secret != "encoded" else {})
    await bench.forger.insert(row | values | {"idempotency_key": "mine"})
    forged = StripeEndpoint("we_forged", BETA, None, None, None, None, None, 1, None)

    assert not await bench.takes(forged, OLD)
    assert await bench.takes(neighbour, OLD)
    assert [endpoint.endpoint_id for endpoint in await bench.endpoints.of_chain(ALPHA)] == [neighbour.endpoint_id]
    assert await bench.findings() == [(ROW_UNANNOUNCED, "we_forged")]
    for change in (bench.endpoints.set_secret(ALPHA, "we_forged", NEW, 0, "key_1"),
                   bench.endpoints.delete(ALPHA, "we_forged", "key_1")):  # fmt: skip
        with pytest.raises(NotFound):
            await change


async def test_a_secret_that_was_replaced_does_not_come_back(bench: Bench) -> None:
    endpoint, neighbour = await bench.make(), await bench.make(BETA)
    then = await bench.forger.rows(f"endpoint_id = '{endpoint.endpoint_id}'")
    await bench.endpoints.set_secret(ALPHA, endpoint.endpoint_id, NEW, 0, "key_1")
    await bench.forger.put_back([*then, *await bench.forger.rows(f"endpoint_id = '{neighbour.endpoint_id}'")])

    assert [await bench.takes(endpoint, secret) for secret in (OLD, NEW)] == [False, False]
    assert await bench.takes(neighbour, OLD)
    assert await bench.findings() == [(ROW_UNANNOUNCED, endpoint.endpoint_id)]
    assert await bench.findings(BETA) == []


async def test_the_event_of_a_secret_that_was_replaced_brings_it_not_back(bench: Bench) -> None:
    """Its MAC is right, as this deployment wrote it once."""
    events = Forger(bench.database, "billing_events")
    endpoint = await bench.make(secret=None)
    told: list[dict[str, object]] = []
    deliver = bench.store.events.deliver

    async def copied(ledger: LedgerService) -> None:
        told.extend(await events.rows())
        await deliver(ledger)

    bench.store.events.deliver = copied  # type: ignore[method-assign, assignment]
    await bench.endpoints.set_secret(ALPHA, endpoint.endpoint_id, OLD, 0, "key_1")
    then = await bench.forger.rows()
    await bench.endpoints.set_secret(ALPHA, endpoint.endpoint_id, NEW, 0, "key_1")
    await bench.forger.put_back(then)
    await events.insert(told[0])  # type: ignore[arg-type]
    assert not await bench.takes(endpoint, OLD)
    assert await bench.findings() == [(ROW_UNANNOUNCED, endpoint.endpoint_id)]


async def test_a_deleted_endpoint_does_not_come_back(bench: Bench) -> None:
    endpoint = await bench.make()
    then = await bench.forger.rows()
    await bench.endpoints.delete(ALPHA, endpoint.endpoint_id, "key_1")
    await bench.forger.put_back(then)
    assert not await bench.takes(endpoint, OLD)
    assert await bench.findings() == [(ROW_UNANNOUNCED, endpoint.endpoint_id)]


@pytest.mark.parametrize(
    "change", [{"org_id": "org_beta"}, {"previous_expires_us": 2**60}, {"secret_fingerprint": None}, {"mac": None}]
)
async def test_an_altered_endpoint_takes_nothing(bench: Bench, change: dict[str, Scalar]) -> None:
    endpoint = await bench.make()
    await bench.forger.change("1 = 1", **change)
    assert not await bench.takes(endpoint, OLD)
    chain = BETA if "org_id" in change else ALPHA
    assert await bench.findings(chain) == [(ROW_UNANNOUNCED, endpoint.endpoint_id)]


async def test_an_old_secret_is_good_for_its_grace_and_no_longer(bench: Bench) -> None:
    endpoint = await bench.make()
    await bench.endpoints.set_secret(ALPHA, endpoint.endpoint_id, NEW, 100, "key_1")
    then = await bench.forger.rows()
    assert [await bench.takes(endpoint, secret) for secret in (OLD, NEW)] == [True, True]
    bench.clock.advance(101)
    await bench.store.forget_expired(bench.clock.now_us())
    assert [await bench.takes(endpoint, secret) for secret in (OLD, NEW)] == [False, True]
    assert await bench.findings() == []
    await bench.forger.put_back(then)
    assert [await bench.takes(endpoint, secret) for secret in (OLD, NEW)] == [False, True]


async def test_an_honest_life_gives_no_finding(bench: Bench) -> None:
    endpoint = await bench.make(secret=None)
    for secret in (OLD, NEW, OTHER, OTHER):
        await bench.endpoints.set_secret(ALPHA, endpoint.endpoint_id, secret, 100, "key_1")
        assert await bench.takes(endpoint, secret)
        assert await bench.findings() == []
    secrets = [secret async for secret in bench.store.all()]
    assert [await bench.store.replace(secret, secret.wrapped + b"!") for secret in secrets] == [True, True]
    assert [await bench.store.replace(secret, secret.wrapped) for secret in secrets] == [False, False]
    assert [await bench.takes(endpoint, secret) for secret in (f"{NEW}!", f"{OTHER}!")] == [True, True]
    assert await bench.findings() == []
    bodies = [parse_statement(entry.statement).body for entry in await bench.ledger.read(ALPHA, 0, 10)]
    assert bodies[0]["secret_fingerprint"] is None
    assert len({str(body["secret_fingerprint"]) for body in bodies[1:]}) == 3
    await bench.endpoints.delete(ALPHA, endpoint.endpoint_id, "key_1")
    assert await bench.findings() == []


async def test_rewrapping_makes_no_forged_row_count(bench: Bench) -> None:
    endpoint = await bench.make()
    await bench.forger.change("1 = 1", description="forged")
    [secret] = [secret async for secret in bench.store.all()]
    assert await bench.store.replace(secret, b"anew")
    assert await bench.findings() == [(ROW_UNANNOUNCED, endpoint.endpoint_id)]


async def test_a_secret_counts_before_its_entry_is_sealed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(chain: Chain, drafts: Sequence[Draft]) -> None:
        raise Unavailable

    endpoint = await bench.make()
    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "append", down)
        await bench.endpoints.set_secret(ALPHA, endpoint.endpoint_id, NEW, 0, "key_1")
        new = await bench.make(BETA)
        assert [await bench.takes(each, NEW) for each in (endpoint, new)] == [True, False]
        assert await bench.takes(new, OLD)
        assert await bench.findings() == []
    await bench.store.events.deliver(bench.ledger)
    assert await bench.findings() == []


async def test_rows_from_before_the_macs_are_adopted_as_the_chain_announces_them(bench: Bench) -> None:
    settled = False

    async def is_settled() -> bool:
        return settled

    macs = RowMacs(HashingMasterKey())
    macs.is_settled = is_settled
    upgraded = Bench(bench.database, bench.ledger, macs)
    kept, gone = await upgraded.make(), await upgraded.make()
    await upgraded.endpoints.set_secret(ALPHA, kept.endpoint_id, NEW, 1000, "key_1")
    rows = await bench.forger.rows()
    await upgraded.endpoints.delete(ALPHA, gone.endpoint_id, "key_1")
    await bench.forger.put_back(rows)
    await bench.forger.change("1 = 1", mac=None, secret_fingerprint=None, previous_fingerprint=None)
    assert await upgraded.takes(kept, NEW)
    assert not await upgraded.takes(gone, stripe.new_secret())

    await upgraded.trust.adopt()
    settled = True
    assert await upgraded.findings() == [(ROW_UNANNOUNCED, gone.endpoint_id)]
    assert [await upgraded.takes(kept, secret) for secret in (OLD, NEW)] == [True, True]


async def test_an_entry_without_its_idempotency_key_makes_its_endpoint_doubtful(bench: Bench) -> None:
    """Its event could be sealed a second time, as the newest, and make an old secret the current one."""
    endpoint, neighbour = await bench.make(), await bench.make(BETA)
    assert await bench.takes(endpoint, OLD)
    read = bench.ledger.read

    async def without_keys(chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        found = await read(chain, after_seq, limit, kind)
        return [replace(entry, idempotency_key=None) if chain == ALPHA else entry for entry in found]

    bench.ledger.read = without_keys  # type: ignore[method-assign]
    bench.trust = EndpointTrust(bench.store, bench.ledger, bench.macs)
    assert not await bench.takes(endpoint, OLD)
    assert await bench.findings() == [(ROW_UNANNOUNCED, endpoint.endpoint_id)]
    assert await bench.takes(neighbour, OLD)
