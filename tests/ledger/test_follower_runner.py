"""Followers hear of every chain that grew, whoever made it grow; one that fails holds nobody else up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from precipiq_contracts.chain import Chain, Draft, EntryKind
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.followers import Follower
from precipiq_core.background import standalone_background
from precipiq_core.system import SystemClock, SystemRandomness
from precipiq_ledger.follower_runner import FollowerRunner, RunnerLimits
from precipiq_ledger.service import LedgerService, Limits
from precipiq_testkit.memory import MemoryDriver

pytestmark = pytest.mark.anyio

ONE, OTHER = Chain("org_one", "test"), Chain("org_other", "live")


class Counting:
    """A follower that counts its calls, and takes a while."""

    def __init__(self, name: str = "counting", error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.calls: Counter[Chain] = Counter()
        self.running = 0
        self.most = 0

    async def catch_up(self, chain: Chain) -> None:
        self.calls[chain] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def following(
    *followers: Follower, sweep_s: float = 60.0, delay_s: float = 0.02, rest_s: float = 0.0
) -> AsyncIterator[LedgerService]:
    service = LedgerService(SystemClock(), SystemRandomness(), Limits(10_000, 64))
    async with MemoryDriver().open() as store:
        service.start(store, {"note": EntryKind("note", "a note")})
        by_name = {follower.name: follower for follower in followers}
        runner = FollowerRunner(service, by_name, RunnerLimits(delay_s, sweep_s, 2, rest_s))
        await write(service, ONE)  # before it is told of appends: as another process would
        service.on_append = runner.note
        async with runner.run(standalone_background()):
            yield service


async def write(service: LedgerService, chain: Chain, count: int = 1) -> None:
    for _ in range(count):
        await service.append(chain, [Draft("note", "key", {})])


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_growing_chain_is_caught_up_soon_and_not_entry_by_entry() -> None:
    follower = Counting()
    async with following(follower) as service:
        await until(lambda: follower.calls[ONE] == 1)  # the first sweep
        await write(service, OTHER, 200)
        await until(lambda: follower.calls[OTHER] >= 1)
        await asyncio.sleep(0.2)
        assert follower.calls[OTHER] < 50
        assert follower.calls[ONE] == 1, "what did not grow is left alone"


async def test_what_other_processes_append_is_found_by_the_sweep() -> None:
    follower = Counting()
    async with following(follower, sweep_s=0.05) as service:
        service.on_append = lambda chain: None
        await write(service, OTHER)
        await until(lambda: follower.calls[OTHER] == 1)
        await asyncio.sleep(0.3)
        assert follower.calls == {ONE: 1, OTHER: 1}, "a chain that did not grow costs a look at its head"


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a fault of its author")])
async def test_a_follower_that_fails_is_tried_again_and_delays_no_other(error: Exception) -> None:
    failing, healthy = Counting("failing", error), Counting("healthy")
    with structlog.testing.capture_logs() as lines:
        async with following(failing, healthy, sweep_s=0.05) as service:
            await write(service, OTHER)
            await until(lambda: failing.calls[OTHER] > 3 and healthy.calls[OTHER] >= 1)
            failing.error = None
            await until(lambda: failing.calls[ONE] > 3)
            seen = dict(failing.calls)
            await asyncio.sleep(0.3)
            assert sum(failing.calls.values()) <= sum(seen.values()) + 2, "once it works it is left alone"
    said = [line for line in lines if line.get("follower") == "failing"]
    assert 1 <= len(said) <= 3, "not at each try"


async def test_no_more_chains_than_allowed_are_caught_up_at_once() -> None:
    follower = Counting()
    async with following(follower) as service:
        chains = [Chain(f"org_{number}", "live") for number in range(12)]
        for chain in chains:
            await write(service, chain)
        await until(lambda: all(follower.calls[chain] for chain in chains))
        assert follower.most == 2


async def test_a_chain_that_takes_for_ever_keeps_no_other_waiting_and_ends_with_the_server() -> None:
    class Endless(Counting):
        async def catch_up(self, chain: Chain) -> None:
            await super().catch_up(chain)
            if chain == ONE:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.calls.clear()

    follower = Endless()
    async with following(follower) as service:
        await until(lambda: follower.calls[ONE] == 1)
        for count in range(1, 4):
            await write(service, OTHER)
            await write(service, ONE)
            await until(lambda: follower.calls[OTHER] >= count)  # noqa: B023
        assert follower.calls[ONE] == 1, "a chain is caught up by one at a time"
    assert not follower.calls


async def test_a_chain_that_goes_on_growing_rests_and_keeps_no_other_waiting() -> None:
    follower = Counting()
    async with following(follower, rest_s=60.0) as service:
        await until(lambda: follower.calls[ONE] == 1)
        for chain in (OTHER, Chain("org_third", "live"), Chain("org_fourth", "live")):  # more than at once
            await write(service, ONE)
            await write(service, chain)
            await until(lambda: follower.calls[chain] == 1)  # noqa: B023
        assert follower.calls[ONE] == 1


async def test_what_grew_while_its_chain_rested_is_not_forgotten() -> None:
    follower = Counting()
    async with following(follower, delay_s=0, rest_s=0.2) as service:
        await until(lambda: follower.calls[ONE] == 1)
        await write(service, ONE)
        await until(lambda: follower.calls[ONE] == 2)


async def test_what_grew_while_its_chain_was_caught_up_is_not_forgotten() -> None:
    heads: list[int] = []

    class Reading(Counting):
        async def catch_up(self, chain: Chain) -> None:
            head = await service.head(chain)
            await super().catch_up(chain)
            if chain == OTHER and head is not None:
                heads.append(head.seq)

    async with following(Reading(), delay_s=0.0) as service:
        await write(service, OTHER, 30)
        await until(lambda: heads and heads[-1] == 30)
