"""How a chain's feed is opened, without a server: who comes after a failure does not hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import RateLimited, Unavailable
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.places import Places
from precipiq_ws_stream.position import START
from tests.ws_stream.following import CHAIN, World, a_world

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


def test_a_stream_that_ends_in_whatever_way_gives_its_place_back() -> None:
    places = Places(None, WsStreamConfig(connections_max=1))  # type: ignore[arg-type]
    for ending in (RuntimeError, asyncio.CancelledError):
        with pytest.raises(ending), places.take("203.0.113.7", "org_1"):
            raise ending
    with places.take("203.0.113.7", "org_1"), pytest.raises(RateLimited), places.take("203.0.113.8", "org_2"):
        pass


async def use(world: World) -> None:
    async with world.feeds.use(CHAIN) as feed:
        assert feed.position == START


async def test_an_opening_that_failed_when_nobody_waited_any_more_is_not_held_against_the_next(world: World) -> None:
    failing = asyncio.Event()
    watch = world.ledger.watch

    @asynccontextmanager
    async def hanging(chain: Chain) -> AsyncIterator[AsyncIterator[None]]:
        await failing.wait()
        raise Unavailable("the database is away")
        yield

    world.ledger.watch = hanging  # type: ignore[method-assign]
    impatient = asyncio.create_task(use(world))
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.wait([impatient])
    failing.set()
    await asyncio.sleep(0.01)
    world.ledger.watch = watch  # type: ignore[method-assign]
    await use(world)


async def test_all_who_wait_for_an_opening_that_fails_hear_of_it_and_the_next_may_try_again(world: World) -> None:
    world.ledger.is_away = True
    results = await asyncio.gather(*(use(world) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    world.ledger.is_away = False
    await use(world)
