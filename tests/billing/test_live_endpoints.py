"""Secrets in memory: what another process changed counts here in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from precipiq_billing.endpoint_store import StripeEndpoint
from precipiq_billing.errors import SignatureInvalid
from precipiq_billing.live_endpoints import LiveEndpoints
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import NotFound
from precipiq_testkit.clock import ManualClock
from tests.billing import stripe_events as stripe

pytestmark = pytest.mark.anyio

REFRESH_S = 5.0
OLD, NEW = stripe.new_secret(), stripe.new_secret()
ENDPOINT = StripeEndpoint("we_1", Chain("org_1", "test"), None, OLD.encode(), None, None, None, 1, 1)


@dataclass
class Shared:
    """What all processes see; a trust that believes all, and a vault that hides nothing."""

    endpoint: StripeEndpoint | None = ENDPOINT

    async def by_id(self, endpoint_id: str) -> StripeEndpoint | None:
        return self.endpoint

    async def counting(self, endpoints: list[StripeEndpoint]) -> list[StripeEndpoint]:
        return endpoints

    async def unwrap(self, wrapped: bytes, context: object) -> bytes:
        return wrapped


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def live(shared: Shared, clock: ManualClock) -> LiveEndpoints:
    return LiveEndpoints(shared, shared, shared, clock, refresh_s=REFRESH_S, cached_max=10)  # type: ignore[arg-type]


async def check(live: LiveEndpoints, clock: ManualClock, secret: str) -> None:
    signature = stripe.signature(b"{}", secret, clock.now_us() / 1_000_000)
    assert await live.check_endpoint("we_1", b"{}", signature) == ENDPOINT.chain


async def test_a_secret_that_was_just_set_elsewhere_counts_at_its_first_delivery(
    shared: Shared, clock: ManualClock, live: LiveEndpoints
) -> None:
    await check(live, clock, OLD)
    shared.endpoint = replace(ENDPOINT, secret=NEW.encode())
    clock.advance(1)
    await check(live, clock, NEW)
    with pytest.raises(SignatureInvalid):
        await check(live, clock, OLD)


async def test_an_endpoint_that_was_just_made_elsewhere_counts_at_its_first_delivery(
    shared: Shared, clock: ManualClock, live: LiveEndpoints
) -> None:
    shared.endpoint = None
    with pytest.raises(NotFound):
        await check(live, clock, OLD)
    shared.endpoint = ENDPOINT
    clock.advance(1)
    await check(live, clock, OLD)


async def test_an_endpoint_that_was_deleted_elsewhere_takes_nothing_after_the_refresh(
    shared: Shared, clock: ManualClock, live: LiveEndpoints
) -> None:
    await check(live, clock, OLD)
    shared.endpoint = None
    clock.advance(REFRESH_S + 0.1)
    with pytest.raises(NotFound):
        await check(live, clock, OLD)


async def test_a_rolled_secret_ends_with_its_grace_and_not_with_the_next_refresh(
    shared: Shared, clock: ManualClock, live: LiveEndpoints
) -> None:
    until_us = clock.now_us() + 2_000_000
    shared.endpoint = replace(ENDPOINT, secret=NEW.encode(), previous_secret=OLD.encode(), previous_expires_us=until_us)
    await check(live, clock, OLD)
    clock.advance(1.9)
    await check(live, clock, OLD)
    clock.advance(0.1)
    assert clock.now_us() == until_us
    with pytest.raises(SignatureInvalid):
        await check(live, clock, OLD)
    await check(live, clock, NEW)


async def test_endpoints_that_do_not_exist_leave_nothing_in_memory_and_push_no_other_out(
    shared: Shared, clock: ManualClock, live: LiveEndpoints
) -> None:
    await check(live, clock, OLD)
    shared.endpoint = None
    for number in range(100):
        for unknown in (f"we_{number:064}", f"we_{number}" * 1000, f"we_\x00{number}", f"../{number}"):
            with pytest.raises(NotFound):
                await live.check_endpoint(unknown, b"{}", None)
    assert list(live._live) == list(live._loaded_s) == ["we_1"]
    await check(live, clock, OLD)  # still in memory: the store has none
