"""How a stream ends, without a server: once, and with nothing after the entry that the client is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from precipiq_ws_stream.endings import Ending
from precipiq_ws_stream.frames import Frame
from tests.ws_stream.following import World, a_world, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


@pytest.mark.parametrize("hands_over_at_once", [True, False])
async def test_no_frame_follows_the_one_that_an_eviction_names(world: World, hands_over_at_once: bool) -> None:
    """Not even to a client that takes something at the very moment at which it is evicted."""
    subscription, transport = await world.subscribe()
    sent: list[int] = []
    if not hands_over_at_once:

        async def send_frame(frame: Frame) -> None:
            sent.append(frame.seq)
            await transport.reading.wait()

        transport.hands_over_at_once = False
        transport.send_frame = send_frame  # type: ignore[method-assign]
    await eventually(lambda: bool(transport.controls))
    transport.reading.clear()
    await world.ledger.fill(1)
    await eventually(lambda: bool(sent or transport.frames))
    await world.ledger.fill(300)
    await eventually(lambda: subscription.lag_frames == 300)
    transport.reading.set()
    subscription.evict()
    await world.ended(subscription)
    assert (sent or transport.seqs) == [1]
    assert transport.ending == Ending(4508, "resume=1")


async def test_an_eviction_is_told_once_however_long_the_client_takes_to_close(world: World) -> None:
    subscription, transport = await world.subscribe()
    await eventually(lambda: bool(transport.controls))
    closing, closed = asyncio.Event(), asyncio.Event()

    async def close(ending: Ending, frame: Frame) -> None:
        closing.set()
        await closed.wait()

    transport.close = close  # type: ignore[method-assign]
    transport.reading.clear()
    await world.ledger.fill(1)
    await eventually(lambda: bool(transport.frames))
    now_s = world.clock.monotonic_s() + world.config.stall_timeout_s
    with capture_logs() as lines:
        for _ in range(3):
            world.streams._evict_stuck(now_s)
        async with asyncio.timeout(5):
            await closing.wait()
        world.streams._evict_stuck(now_s)
        closed.set()
        await world.ended(subscription)
    evicted = [line for line in lines if line["event"].startswith("stream evicted")]
    assert [line["reason"] for line in evicted] == ["stalled"]
