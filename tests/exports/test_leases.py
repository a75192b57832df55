"""Work on an export lasts as long as its lease: who lost it stops at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from precipiq_contracts.errors import Unavailable
from precipiq_exports.job_store import Lease
from precipiq_exports.leases import LeaseKeeper, LeaseLost, Progress
from precipiq_testkit.clock import ManualClock

pytestmark = pytest.mark.anyio

LEASE = Lease("exp_1", 1, "one")
LEASE_S = 0.05


class Store:
    """Renews as it is told."""

    def __init__(self, answer: Callable[[], bool]) -> None:
        self._answer = answer

    async def renew(self, *_: object) -> bool:
        return self._answer()


async def hold(answer: Callable[[], bool], clock: ManualClock, work: Callable[[], Awaitable[str]]) -> str:
    keeper = LeaseKeeper(Store(answer), clock, LEASE_S)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        return await keeper.hold(LEASE, Progress(), work())  # type: ignore[arg-type]


async def test_an_export_that_was_cancelled_or_taken_over_is_worked_on_no_longer() -> None:
    stopped = asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return "made"

    with pytest.raises(LeaseLost):
        await hold(lambda: False, ManualClock(), work)
    assert stopped.is_set()


@pytest.mark.parametrize("away_s", [LEASE_S / 2, LEASE_S * 2])
async def test_while_the_database_is_away_the_lease_lasts_as_long_as_it_was_given(away_s: float) -> None:
    clock, asked = ManualClock(), asyncio.Event()

    def away() -> bool:
        if not asked.is_set():
            clock.advance(away_s)
            asked.set()
        raise Unavailable

    async def work() -> str:
        await asked.wait()
        await asyncio.sleep(LEASE_S)
        return "made"

    if away_s < LEASE_S:
        assert await hold(away, clock, work) == "made"
    else:
        with pytest.raises(LeaseLost):
            await hold(away, clock, work)
