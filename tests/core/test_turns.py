"""Slots of replays: a chain's crowd holds up no other chain, and no slot is lost, whoever gives up when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.errors import Unavailable
from precipiq_work.fair_queue import chain_share
from precipiq_work.turns import Turns
from precipiq_ws_stream.frames import EVERYTHING, Wanted
from precipiq_ws_stream.pages import PageSize
from precipiq_ws_stream.position import START, Position
from tests.ws_stream.following import CHAIN, a_world

pytestmark = pytest.mark.anyio

CROWDED, OTHER, THIRD = (Chain(org_id, "test") for org_id in ("org_a", "org_b", "org_c"))
CROWD = 500
WAIT_S = 10


class Waiters:
    """Tasks that wait for turns; each holds its slot until it is told to let go. ``order``: who had one."""

    def __init__(self, at_once_max: int, waiting_max: int = 10_000, *, kept_free: int = 0) -> None:
        self.at_once_max = at_once_max
        self.turns = Turns(at_once_max, waiting_max, "too many wait", kept_free=kept_free)
        self.order: list[tuple[Chain, int]] = []
        self.holding: dict[tuple[Chain, int], asyncio.Event] = {}
        self.holding_max = 0
        self.tasks: dict[tuple[Chain, int], asyncio.Task[None]] = {}

    async def add(self, chain: Chain, count: int = 1) -> None:
        for _ in range(count):
            name = chain, len(self.tasks)
            self.tasks[name] = asyncio.create_task(self._wait(name))
        await settled()

    async def let_go(self) -> None:
        """Whoever has held a slot longest gives it back."""
        next(iter(self.holding.values())).set()
        await settled()

    async def finish(self) -> None:
        while self.holding:
            await self.let_go()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def assert_nothing_is_lost(self, at_once: int | None = None) -> None:
        """Every slot can be had at once and one more cannot; of who is gone nothing is remembered."""
        self.at_once_max = at_once or self.at_once_max
        self.tasks.clear()
        self.order.clear()
        await self.add(OTHER, self.at_once_max + 1)
        assert len(self.holding) == self.at_once_max
        await self.finish()
        assert len(self.order) == self.at_once_max + 1
        self.tasks.clear()
        await settled()
        assert self.turns.is_idle
        assert not self.turns._slots._held

    @property
    def chains(self) -> list[Chain]:
        return [chain for chain, _ in self.order]

    async def _wait(self, name: tuple[Chain, int]) -> None:
        async with self.turns.of(name[0]):
            self.order.append(name)
            self.holding[name] = asyncio.Event()
            self.holding_max = max(self.holding_max, len(self.holding))
            try:
                await self.holding[name].wait()
            finally:
                del self.holding[name]


async def settled() -> None:
    """Everybody who can do something has done it."""
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.mark.parametrize("at_once_max", [1, 4])
async def test_another_chain_waits_for_one_turn_of_a_crowd(at_once_max: int) -> None:
    waiters = Waiters(at_once_max)
    await waiters.add(CROWDED, CROWD)
    await waiters.add(OTHER)
    for _ in range(2):
        await waiters.let_go()
    assert waiters.chains == [*[CROWDED] * (at_once_max + 1), OTHER]
    await waiters.finish()
    assert waiters.holding_max == at_once_max
    assert len(waiters.order) == CROWD + 1


async def test_chains_take_turns_and_within_a_chain_who_came_first_is_first() -> None:
    waiters = Waiters(1)
    for chain in (CROWDED, OTHER, THIRD):
        await waiters.add(chain, 3)
    await waiters.finish()
    assert waiters.chains == [CROWDED, CROWDED, OTHER, THIRD, CROWDED, OTHER, THIRD, OTHER, THIRD]
    for chain in (CROWDED, OTHER, THIRD):
        numbers = [number for name, number in waiters.order if name == chain]
        assert numbers == sorted(numbers)


async def test_a_chain_alone_has_all_slots() -> None:
    waiters = Waiters(4)
    await waiters.add(CROWDED, 10)
    assert len(waiters.holding) == 4
    await waiters.finish()
    assert len(waiters.order) == 10


@pytest.mark.parametrize("place", range(3))
async def test_who_gives_up_while_waiting_holds_nobody_up(place: int) -> None:
    waiters = Waiters(1)
    await waiters.add(CROWDED, 4)
    await waiters.add(OTHER)
    gone = list(waiters.tasks)[1 + place]
    waiters.tasks[gone].cancel()
    await waiters.finish()
    assert sorted(number for _, number in waiters.order) == [number for number in range(5) if number != gone[1]]
    await waiters.assert_nothing_is_lost()


@pytest.mark.parametrize("steps", range(6))
async def test_who_gives_up_while_a_slot_is_handed_over_passes_it_on(steps: int) -> None:
    waiters = Waiters(1)
    await waiters.add(CROWDED, 3)
    await waiters.add(OTHER)
    next(iter(waiters.holding.values())).set()
    for _ in range(steps):
        await asyncio.sleep(0)
    waiters.tasks[CROWDED, 1].cancel()
    await settled()
    assert waiters.holding, "the slot went to nobody"
    await waiters.finish()
    assert {(CROWDED, 2), (OTHER, 3)} <= set(waiters.order)
    await waiters.assert_nothing_is_lost()


@pytest.mark.parametrize("seed", range(30))
async def test_no_slot_is_lost_whatever_happens_in_whatever_order(seed: int) -> None:
    chosen = random.Random(seed)
    at_once_max = chosen.choice((1, 2, 4))
    waiters = Waiters(at_once_max)
    for _ in range(300):
        what = chosen.random()
        if what < 0.5:
            name = chosen.choice((CROWDED, CROWDED, OTHER, THIRD)), len(waiters.tasks)
            waiters.tasks[name] = asyncio.create_task(waiters._wait(name))
        elif what < 0.7 and waiters.tasks:
            chosen.choice(list(waiters.tasks.values())).cancel()
        elif waiters.holding:
            chosen.choice(list(waiters.holding.values())).set()
        for _ in range(chosen.randrange(3)):
            await asyncio.sleep(0)
    await settled()
    await waiters.finish()
    assert waiters.holding_max == at_once_max
    served = {name for name, task in waiters.tasks.items() if not task.cancelled()}
    assert served <= set(waiters.order)
    await waiters.assert_nothing_is_lost()


async def test_live_and_test_of_an_organisation_share_its_turns() -> None:
    live, test = Chain("org_a", "live"), Chain("org_a", "test")
    waiters = Waiters(1)
    await waiters.add(test, 4)
    await waiters.add(live, 2)
    await waiters.add(OTHER, 2)
    await waiters.finish()
    assert waiters.chains == [test, test, OTHER, live, OTHER, test, live, test]


async def test_slots_are_kept_free_for_others_and_for_live() -> None:
    """An organisation's live has all but one slot; so have the tests of all organisations, and its own with live's."""
    live = Chain(CROWDED.org_id, "live")
    waiters = Waiters(3, kept_free=1)
    await waiters.add(CROWDED, 3)
    await waiters.add(OTHER, 3)
    assert {chain for chain, _ in waiters.holding} == {CROWDED}
    await waiters.add(live)
    assert [chain for chain, _ in waiters.holding] == [CROWDED, CROWDED, live]
    await waiters.finish()
    assert len(waiters.order) == 7

    await waiters.add(live, 3)
    await waiters.add(CROWDED, 3)
    assert [chain for chain, _ in waiters.holding] == [live, live]
    await waiters.add(Chain(OTHER.org_id, "live"))
    assert len(waiters.holding) == 3
    await waiters.finish()
    await waiters.assert_nothing_is_lost(at_once=2)


@pytest.mark.parametrize("kept_free", [1, 2, 9])
async def test_a_single_slot_is_everybodys(kept_free: int) -> None:
    waiters = Waiters(1, kept_free=kept_free)
    await waiters.add(CROWDED, 2)
    await waiters.finish()
    assert len(waiters.order) == 2


async def test_the_work_of_the_deployment_takes_turns_and_has_no_share() -> None:
    waiters = Waiters(2, kept_free=1)
    for _ in range(2):
        await waiters.add(None)  # type: ignore[arg-type]
    assert len(waiters.holding) == 2
    await waiters.finish()


async def test_one_chain_fills_its_share_of_the_queue_and_no_others() -> None:
    waiters = Waiters(1, 2_000)
    await waiters.add(CROWDED, 1 + 200)
    for refused in range(3):
        with pytest.raises(Unavailable, match="too many wait"):
            await waiters.turns.take(CROWDED)
        await waiters.add(Chain(f"org_{refused}", "live"), 200)
        await waiters.add(Chain(CROWDED.org_id, "live"), 10)
    gone = list(waiters.tasks.values())[1]
    gone.cancel()
    await settled()
    await waiters.add(CROWDED)  # a caller that left made room at once
    await waiters.finish()
    assert len(waiters.order) == 1 + 200 + 3 * 210
    assert chain_share(1) == 1
    assert chain_share(99) == 99


async def test_the_queue_is_bounded_in_all() -> None:
    waiters = Waiters(1, 300)
    for number in range(3):
        await waiters.add(Chain(f"org_{number}", "live"), 101 if not number else 100)
    with pytest.raises(Unavailable, match="too many wait"):
        await waiters.turns.take(OTHER)
    await waiters.finish()
    await waiters.assert_nothing_is_lost()


async def test_a_free_slot_is_had_without_a_pause() -> None:
    """Nothing runs in between: no task, no turn of the loop."""
    turns = Turns(2, kept_free=1)
    for _ in range(100):
        with pytest.raises(StopIteration):
            turns.take(CROWDED).send(None)
        turns.give_back(CROWDED)


@pytest.mark.parametrize("wanted", [EVERYTHING, Wanted(None, "agent")], ids=["shared pages", "own pages"])
async def test_a_crowd_that_replays_one_chain_delays_another_chains_page_by_one_turn(wanted: Wanted) -> None:
    async with a_world() as world:
        await world.ledger.fill(CROWD + 1)
        await world.ledger.writer.fill(OTHER, 10)
        read, order = world.ledger.read, list[Chain]()

        async def noting(chain: Chain, after_seq: int, limit: int) -> Sequence[Entry]:
            order.append(chain)
            return await read(chain, after_seq, limit)

        world.ledger.read = noting  # type: ignore[method-assign]
        size = PageSize(1, 64 * 1024)
        crowd = [
            asyncio.create_task(world.replays.page(CHAIN, Position(seq, None), wanted, size)) for seq in range(CROWD)
        ]
        await asyncio.sleep(0)
        page = await world.replays.page(OTHER, START, wanted, size)
        assert page is not None
        assert [frame.seq for frame in page.frames] == [1]
        assert order.index(OTHER) <= world.config.replays_at_once_max + 1
        assert all(await asyncio.gather(*crowd))
        assert len(order) == CROWD + 1


async def test_a_page_that_the_ledger_took_long_for_keeps_its_slot_only_a_moment_longer() -> None:
    """Replays pause for appends as long as a page took; time in which the ledger did not answer is none of ours."""
    async with a_world() as world:
        await world.ledger.fill(10)
        read = world.ledger.read

        async def slow(chain: Chain, after_seq: int, limit: int) -> Sequence[Entry]:
            world.clock.advance(3600)
            return await read(chain, after_seq, limit)

        world.ledger.read = slow  # type: ignore[method-assign]
        world.replays.note_news()
        async with asyncio.timeout(WAIT_S):
            assert await world.replays.page(CHAIN, START, EVERYTHING, PageSize(1, 64 * 1024))
