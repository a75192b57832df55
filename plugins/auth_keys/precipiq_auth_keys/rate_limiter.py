"""Requests per second of each organisation, environment and group. ``redis_counter`` knows Redis, this module does not.

A window of one second begins with its first request: a client that retries after 1, 2 and 4 seconds finds a new one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import structlog

from precipiq_contracts.auth import RateGroup, RateState
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.plans import PlanLimits, Plans

WINDOW_S = 1
KEY_PREFIX = "precipiq:rate:"

_ORG_ID_LENGTH_MAX = 100
_FORGOTTEN_PER_HIT_MAX = 64
"""Ended windows that a hit drops: more than it adds, so the table shrinks, and few, so each hit is cheap."""

_PLANNED: Mapping[RateGroup, Callable[[PlanLimits], int | None]] = {
    "write": attrgetter("writes_per_second_max"),
    "batch": attrgetter("batches_per_second_max"),
    "read": attrgetter("reads_per_second_max"),
}

log = structlog.get_logger("precipiq.auth_keys")


@dataclass(frozen=True, slots=True)
class Count:
    """``hits``: of the running window, with the newest; the window ends in ``left_s`` seconds."""

    hits: int
    left_s: float


class Counter(Protocol):
    """Counts in windows of ``WINDOW_S``."""

    async def hit(self, key: str) -> Count:
        """Count one hit. MUST NOT raise, even when the place where it counts is out of reach."""
        ...

    def run(self) -> AbstractAsyncContextManager[None]:
        """Run while the server serves; the log says where the counter counts."""
        ...


@dataclass(slots=True)
class _Window:
    ends_s: float
    hits: int = 0


class LocalCounter:
    """Counts in this process, by a clock that cannot go back. Later hits drop the windows that ended."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # all of one length: the first ends first

    async def hit(self, key: str) -> Count:
        now_s = self._clock.monotonic_s()
        self._forget(now_s)
        window = self._windows.get(key)
        if window is None or window.ends_s <= now_s:
            self._windows.pop(key, None)
            window = self._windows[key] = _Window(now_s + WINDOW_S)
        window.hits += 1
        return Count(window.hits, window.ends_s - now_s)

    def _forget(self, now_s: float) -> None:
        for _ in range(_FORGOTTEN_PER_HIT_MAX):
            if not self._windows or next(iter(self._windows.values())).ends_s > now_s:
                return
            self._windows.popitem(last=False)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        log.info("rate limits count per process: each server process has counters of its own", storage="memory")
        yield


class SecondWindows:
    """The capability ``RateLimiter``. Counts locally by default.

    ``quotas``: requests per second of each group, where the organisation's plan sets none.
    """

    def __init__(
        self,
        quotas: Mapping[RateGroup, int],
        clock: Clock,
        counter: Counter | None = None,
        plans: Plans | None = None,
    ) -> None:
        self._quotas = dict(quotas)
        self._counter = counter or LocalCounter(clock)
        self._plans = plans

    async def hit(self, chain: Chain, group: RateGroup) -> RateState:
        quota = self._quota(chain.org_id, group)
        count = await self._counter.hit(_key(chain, group))
        retry_after_s = max(count.left_s, 0.001) if count.hits > quota else 0.0
        return RateState(group, quota, WINDOW_S, max(0, quota - count.hits), WINDOW_S, retry_after_s)

    def run(self) -> AbstractAsyncContextManager[None]:
        """Run the counter while the server serves."""
        return self._counter.run()

    def _quota(self, org_id: str, group: RateGroup) -> int:
        if self._plans is not None:
            planned = _PLANNED[group](self._plans.limits_of(org_id))
            if planned is not None:
                return planned
        return self._quotas[group]


def _key(chain: Chain, group: RateGroup) -> str:
    """The counter's key, of bounded length for organisation ids of any third party's authenticator."""
    org_id = chain.org_id
    if len(org_id) > _ORG_ID_LENGTH_MAX:
        org_id = hashlib.sha256(org_id.encode()).hexdigest()
    return f"{KEY_PREFIX}{org_id}:{chain.environment}:{group}"
