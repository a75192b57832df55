"""Work on an export lasts as long as its lease: who lost it stops at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from precipiq_contracts.errors import Unavailable
from precipiq_exports.jobs import Beat, Lease
from precipiq_exports.leases import LeaseKeeper, LeaseLost, LeaseObserver, Progress
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


class Export:
    """A running export in the store. ``beat``: as ``JobStore.renew`` changes it."""

    def __init__(self) -> None:
        self.beat = Beat("exp_1", 1, 0)

    def renew(self, clock: ManualClock) -> None:
        until_us = clock.now_us() + int(LEASE_S * 1_000_000)
        self.beat = Beat("exp_1", 1, max(self.beat.beat + 1, until_us))


@pytest.mark.parametrize("observer_off_s", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize("worker_off_s", [-3600.0, 0.0, 3600.0])
def test_who_gives_signs_of_life_is_never_taken_for_dead_and_who_gives_none_soon_is(
    worker_off_s: float, observer_off_s: float
) -> None:
    """Whatever the time of day of either machine, and though it is set while they work."""
    worker, observed, export = ManualClock(), ManualClock(), Export()
    worker.step(worker_off_s)
    observed.step(observer_off_s)
    observer = LeaseObserver(observed, LEASE_S)
    for number in range(50):
        export.renew(worker)
        for clock in (worker, observed):
            clock.advance(LEASE_S / 5)
        if number == 20:
            worker.step(-2 * worker_off_s)
            observed.step(-2 * observer_off_s)
        assert observer.abandoned([export.beat]) == []
    waited_s = 0.0
    while not observer.abandoned([export.beat]):
        observed.advance(LEASE_S / 5)
        waited_s += LEASE_S / 5
    assert waited_s == pytest.approx(LEASE_S)


def test_an_export_that_ended_is_forgotten() -> None:
    clock = ManualClock()
    observer = LeaseObserver(clock, LEASE_S)
    assert observer.abandoned([Beat("exp_1", 1, 5)]) == []
    clock.advance(LEASE_S)
    assert observer.abandoned([]) == []
    assert observer.abandoned([Beat("exp_1", 1, 5)]) == []
