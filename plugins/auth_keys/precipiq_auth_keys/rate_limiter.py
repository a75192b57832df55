"""Requests per second, counted apart for each organisation, environment and group, by the ``limits`` library.

Windows of one second: a client that retries after 1, 2 and 4 seconds always finds a new one.
"""

from __future__ import annotations

from collections.abc import Mapping

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter

from precipiq_core.clock import Clock
from precipiq_core.contracts.auth import RateGroup, RateState
from precipiq_core.contracts.chain import Chain

WINDOW_S = 1


class SecondWindows:
    """The capability ``RateLimiter``. ``quotas``: requests per second of each group."""

    def __init__(self, quotas: Mapping[RateGroup, int], clock: Clock, storage: Storage | None = None) -> None:
        self._clock = clock
        self._items = {group: RateLimitItemPerSecond(quota) for group, quota in quotas.items()}
        self._windows = FixedWindowRateLimiter(storage or MemoryStorage())

    async def hit(self, chain: Chain, group: RateGroup) -> RateState:
        item = self._items[group]
        identifiers = (chain.org_id, chain.environment, group)
        admitted = await self._windows.hit(item, *identifiers)
        stats = await self._windows.get_window_stats(item, *identifiers)
        wait_s = max(0.0, stats.reset_time - self._clock.now_us() / 1_000_000)
        retry_after_s = 0.0 if admitted else max(wait_s, 0.001)
        return RateState(
            group, item.amount, WINDOW_S, max(0, stats.remaining), min(WINDOW_S, round(wait_s + 0.5)), retry_after_s
        )
