"""The watchers of each chain in this process, and their wake-ups. Independent of any database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from precipiq_contracts.chain import Chain


class WakeUps:
    """The wake-ups of one watcher. A wake-up outside of a wait is kept for the next wait.

    ``poll_s``: the longest wait, for stores to which other processes append without a wake-up; None: no bound.
    """

    def __init__(self, poll_s: float | None = None) -> None:
        self._event = asyncio.Event()
        self._longest_wait_s = poll_s

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._event.set()

    def __aiter__(self) -> WakeUps:
        return self

    async def __anext__(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._longest_wait_s):
                await self._event.wait()
        self._event.clear()


class Watchers:
    """The watchers of each chain. ``poll_s``: see :class:`WakeUps`."""

    def __init__(self, poll_s: float | None = None) -> None:
        self._longest_wait_s = poll_s
        self._by_chain: dict[Chain, set[WakeUps]] = {}

    @property
    def chains(self) -> list[Chain]:
        """The chains with watchers."""
        return list(self._by_chain)

    def wake(self, chain: Chain) -> None:
        """Wake all watchers of that chain."""
        for watcher in self._by_chain.get(chain, ()):
            watcher.wake()

    def wake_all(self) -> None:
        """Wake all watchers."""
        for chain in self.chains:
            self.wake(chain)

    @asynccontextmanager
    async def watch(self, chain: Chain) -> AsyncIterator[AsyncIterator[None]]:
        """See ``EntryStore.watch``."""
        wake_ups = WakeUps(self._longest_wait_s)
        watching = self._by_chain.setdefault(chain, set())
        watching.add(wake_ups)
        try:
            yield wake_ups
        finally:
            watching.discard(wake_ups)
            if not watching and self._by_chain.get(chain) is watching:
                del self._by_chain[chain]
