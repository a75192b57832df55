"""Limits are measured by clocks that cannot go back: nobody gains or loses by a step of the time of day."""

from __future__ import annotations

import pytest

from precipiq_auth_keys.address_limiter import AddressWindows, LocalWindows
from precipiq_auth_keys.rate_limiter import WINDOW_S, LocalCounter, SecondWindows
from precipiq_contracts.chain import Chain
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

CHAIN = Chain("org_a", "test")
HOUR_S = 3600.0


@pytest.mark.parametrize("step_s", [0.0, -HOUR_S, HOUR_S])
async def test_as_many_requests_are_admitted_whatever_the_time_of_day_does(step_s: float) -> None:
    clock = ManualClock()
    limiter = SecondWindows({"write": 10, "batch": 10, "read": 10}, clock)
    admitted = 0
    for number in range(300):
        if number == 105:
            clock.step(step_s)
        state = await limiter.hit(CHAIN, "write")
        assert state.retry_after_s <= WINDOW_S
        admitted += state.retry_after_s == 0
        clock.advance(0.01)
    assert admitted == 30


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
async def test_the_named_wait_is_long_enough(step_s: float) -> None:
    clock = ManualClock()
    limiter = SecondWindows({"write": 1, "batch": 1, "read": 1}, clock)
    await limiter.hit(CHAIN, "write")
    clock.advance(0.25)
    clock.step(step_s)
    refused = await limiter.hit(CHAIN, "write")
    assert refused.retry_after_s == pytest.approx(0.75)
    clock.advance(refused.retry_after_s)
    assert (await limiter.hit(CHAIN, "write")).retry_after_s == 0


async def test_windows_that_ended_are_forgotten() -> None:
    clock = ManualClock()
    counter = LocalCounter(clock)
    for number in range(500):
        await counter.hit(f"org_{number}")
    clock.advance(WINDOW_S)
    for _ in range(10):
        assert (await counter.hit("org_0")).hits <= 10
    assert len(counter._windows) == 1


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
async def test_addresses_are_counted_alike(step_s: float) -> None:
    clock = ManualClock()
    limiter = AddressWindows(LocalWindows(clock, addresses_max=10))
    for _ in range(3):
        assert (await limiter.hit("x", "192.0.2.1", 3, 60)).retry_after_s == 0
    clock.step(step_s)
    assert (await limiter.hit("x", "192.0.2.1", 3, 60)).retry_after_s == 60
