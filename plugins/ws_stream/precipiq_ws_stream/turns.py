"""Slots that chains are given in turn: however many wait for one chain, another waits for one of them at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from precipiq_contracts.chain import Chain


class Turns:
    """So many slots at once. Of each chain only the first who came waits among the chains; the others wait for it."""

    def __init__(self, at_once_max: int) -> None:
        self._slots = asyncio.Semaphore(at_once_max)
        self._queues: WeakValueDictionary[Chain, asyncio.Lock] = WeakValueDictionary()  # of chains that somebody is in

    @asynccontextmanager
    async def of(self, chain: Chain) -> AsyncIterator[None]:
        """Wait for the chain's turn, and hold a slot as long as this is entered. May be cancelled at any time."""
        async with self._queues.setdefault(chain, asyncio.Lock()):
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()
