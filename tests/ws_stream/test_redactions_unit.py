"""What streams keep of a chain ends with an erasure in it, whoever follows and whatever is being read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from precipiq_contracts.chain import Chain, Entry
from precipiq_ws_stream.frames import EVERYTHING
from precipiq_ws_stream.pages import PageSize
from precipiq_ws_stream.position import START
from tests.ws_stream.following import CHAIN, World, a_world, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


async def test_a_redaction_clears_what_is_kept_of_its_chain(world: World) -> None:
    _, live = await world.subscribe()
    [target, *_] = await world.ledger.fill(20)
    _, early = await world.subscribe(0)
    await eventually(lambda: len(early.frames) == len(live.frames) == 20)
    assert b'"payload":null' not in early.frames[0].text
    await world.ledger.writer.redact(CHAIN, target)
    await eventually(lambda: len(live.frames) == 21)
    _, late = await world.subscribe(0)
    await eventually(lambda: len(late.frames) == 21)
    assert b'"payload":null' in late.frames[0].text


async def test_a_redaction_drops_the_pages_that_were_kept_for_others() -> None:
    async with a_world(recent_bytes_max=0) as world:
        [target, *_] = await world.ledger.fill(20)
        _, live = await world.subscribe(0)
        await eventually(lambda: len(live.frames) == 20)
        await world.ledger.fill(1)
        await eventually(lambda: len(live.frames) == 21)
        await world.ledger.writer.redact(CHAIN, target)
        await eventually(lambda: len(live.frames) == 22)
        _, late = await world.subscribe(0)
        await eventually(lambda: len(late.frames) == 22)
        assert b'"payload":null' in late.frames[0].text


async def test_a_page_that_was_being_read_when_something_was_erased_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ledger.fill(10)
    size = PageSize(200, 128 * 1024)
    read, erased = world.ledger.read, asyncio.Event()

    async def slowly(chain: Chain, after_seq: int, limit: int) -> Sequence[Entry]:
        entries = await read(chain, after_seq, limit)
        await erased.wait()
        return entries

    monkeypatch.setattr(world.ledger, "read", slowly)
    reading = asyncio.create_task(world.replays.page(CHAIN, START, EVERYTHING, size))
    await eventually(lambda: len(world.ledger.reads) == 1)
    world.replays.forget(CHAIN)
    erased.set()
    await reading
    await world.replays.page(CHAIN, START, EVERYTHING, size)
    assert len(world.ledger.reads) == 2


async def test_a_redaction_while_nobody_streams_is_no_less_one() -> None:
    """Pages that a replay left behind would show what was erased when the feed was closed."""
    async with a_world(recent_bytes_max=0) as world:
        [target, *_] = await world.ledger.fill(20)
        _, early = await world.subscribe(0)
        await eventually(lambda: len(early.frames) == 20)
        [task] = world.open.values()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        world.clock.advance(31)
        await world.feeds.close_idle()
        await world.ledger.writer.redact(CHAIN, target)
        _, late = await world.subscribe(0)
        await eventually(lambda: len(late.frames) == 21)
        assert b'"payload":null' in late.frames[0].text
