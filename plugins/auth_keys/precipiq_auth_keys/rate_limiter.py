"""Requests per second, counted apart for each organisation, environment and group, by the ``limits`` library.

Windows of one second: a client that retries after 1, 2 and 4 seconds always finds a new one.
"""

from __future__ import annotations

from collections.abc import Mapping

from limits.aio.storage import MemoryStorage, Storage

from precipiq_core.clock import Clock
from precipiq_core.contracts.auth import RateGroup, RateState
from precipiq_core.contracts.chain import Chain

WINDOW_S = 1


class SecondWindows:
    """The capability ``RateLimiter``. ``quotas``: requests per second of each group.

    Counts with the storage of ``limits`` itself: its strategy would ask the storage three times for each request.
    """

    def __init__(self, quotas: Mapping[RateGroup, int], clock: Clock, storage: Storage | None = None) -> None:
        self._quotas = dict(quotas)
        self._clock = clock
        self._storage = storage or MemoryStorage()

    async def hit(self, chain: Chain, group: RateGroup) -> RateState:
        quota = self._quotas[group]
        key = f"precipiq/{chain.org_id}/{chain.environment}/{group}"
        count = await self._storage.incr(key, WINDOW_S)
        retry_after_s = 0.0
        if count > quota:
            ends_s = await self._storage.get_expiry(key)
            retry_after_s = max(ends_s - self._clock.now_us() / 1_000_000, 0.001)
        return RateState(group, quota, WINDOW_S, max(0, quota - count), WINDOW_S, retry_after_s)
