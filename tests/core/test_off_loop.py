"""Heavy work runs beside the loop, one piece at a time, in turns; and owners share the memory of what they send."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from contextlib import suppress
from typing import Any

import pytest

from precipiq_contracts.chain import Chain
from precipiq_work.off_loop import LIGHT_BYTES, LIGHT_NODES, OffLoop, is_light
from precipiq_work.shares import Shares

pytestmark = pytest.mark.anyio

ONE, OTHER, THIRD = (Chain(org_id, "test") for org_id in ("org_a", "org_b", "org_c"))
WAIT_S = 20


class Held:
    """Work that runs until it may end."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> int:
        self.began.set()
        assert self.may_end.wait(WAIT_S)
        return threading.get_ident()


async def began(work: Held) -> None:
    assert await asyncio.to_thread(work.began.wait, WAIT_S)


async def test_work_runs_in_another_thread_and_the_loop_goes_on() -> None:
    work = Held()
    task = asyncio.create_task(OffLoop().run(ONE, work))
    await began(work)
    assert not task.done()
    work.may_end.set()
    assert await task != threading.get_ident()


async def test_a_chain_with_much_work_makes_another_wait_for_one_piece() -> None:
    off_loop, order, first = OffLoop(), [], Held()
    tasks = [asyncio.create_task(off_loop.run(ONE, first))]
    await began(first)
    for number in range(5):
        tasks.append(asyncio.create_task(off_loop.run(ONE, lambda number=number: order.append(("one", number)))))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(off_loop.run(OTHER, lambda: order.append(("other", 0)))))
    await asyncio.sleep(0)
    first.may_end.set()
    await asyncio.wait_for(asyncio.gather(*tasks), WAIT_S)
    assert order.index(("other", 0)) <= 1
    assert [number for name, number in order if name == "one"] == list(range(5))


async def test_work_that_its_caller_left_keeps_its_turn_until_it_ends() -> None:
    off_loop, left, second = OffLoop(), Held(), Held()
    task = asyncio.create_task(off_loop.run(ONE, left))
    await began(left)
    task.cancel()
    next_task = asyncio.create_task(off_loop.run(OTHER, second))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.began.is_set()
    left.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    second.may_end.set()
    await asyncio.wait_for(next_task, WAIT_S)


async def test_a_refusal_keeps_nothing_of_what_was_refused() -> None:
    class Body:
        pass

    def refuse(body: Body) -> None:
        raise ValueError("no")

    async def ask() -> weakref.ref[Body]:
        body = Body()
        with suppress(ValueError):
            await OffLoop().run(ONE, lambda: refuse(body))
        return weakref.ref(body)

    gc.disable()
    try:
        kept = await ask()
        await OffLoop().run(ONE, lambda: None)  # the thread has dropped its last work
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("value", "light"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, True),
        ("x" * (LIGHT_BYTES + 1), False),
        ({"x" * (LIGHT_BYTES + 1): 1}, False),
        ([0] * (LIGHT_NODES + 1), False),
        ([[]] * (LIGHT_NODES + 1), False),
        ({str(number): number for number in range(LIGHT_NODES // 2 + 1)}, False),
        ([[0] * 100] * (LIGHT_NODES // 50), False),
        ([9**4500] * 200, False),
        (None, True),
        ({1: 2}, False),
    ],
)
def test_light_is_what_is_small_in_every_way(value: Any, light: bool) -> None:
    assert is_light([value]) is light


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_owner_has_its_share_and_the_others_theirs() -> None:
    shares = Shares(100, 50)
    assert await shares.take(ONE, 30) == 30
    assert await shares.take(ONE, 20) == 20
    more = asyncio.create_task(shares.take(ONE, 1))
    await settled()
    assert not more.done()
    assert await shares.take(OTHER, 500) == 50  # more than a share counts as a share
    shares.give_back(ONE, 20)
    assert await more == 1


async def test_what_is_large_is_not_passed_by_for_ever() -> None:
    shares = Shares(100, 50)
    for owner in (ONE, OTHER):
        await shares.take(owner, 50)
    large = asyncio.create_task(shares.take(THIRD, 50))
    await settled()
    small = asyncio.create_task(shares.take(ONE, 5))
    shares.give_back(ONE, 10)
    await settled()
    assert not small.done()
    assert not large.done()
    shares.give_back(OTHER, 50)
    assert await large == 50
    assert await small == 5


async def test_nothing_is_lost_whoever_gives_up_when() -> None:
    source = random.Random(20261130)
    shares, held = Shares(100, 40), dict.fromkeys((ONE, OTHER, THIRD), 0)

    async def borrow(owner: Chain) -> None:
        size = await shares.take(owner, source.randrange(1, 60))
        held[owner] += size
        assert held[owner] <= 40
        assert sum(held.values()) <= 100
        try:
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0)
        finally:
            held[owner] -= size
            shares.give_back(owner, size)

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(borrow(source.choice(list(held)))))
        if source.random() < 0.4:
            source.choice(tasks).cancel()
        if source.random() < 0.5:
            await asyncio.sleep(0)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert [await shares.take(owner, 33) for owner in held] == [33, 33, 33]
