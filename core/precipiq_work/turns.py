"""Slots that chains get in turn: a chain waits for one read of each other chain at most, however many wait there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from precipiq_contracts.chain import Chain


class Turns:
    """A number of slots. Of each chain only the first caller waits among the chains; the other callers wait for it."""

    def __init__(self, at_once_max: int) -> None:
        self._slots = asyncio.Semaphore(at_once_max)
        self._queues: WeakValueDictionary[Chain, asyncio.Lock] = WeakValueDictionary()  # of chains with callers

    @asynccontextmanager
    async def of(self, chain: Chain) -> AsyncIterator[None]:
        """Wait for the chain's turn, and hold a slot while the context is entered. May be cancelled at any time."""
        async with self._queues.setdefault(chain, asyncio.Lock()):
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()
