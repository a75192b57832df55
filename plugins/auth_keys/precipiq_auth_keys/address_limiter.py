"""Requests per client address in sliding windows: the capability, and the counter of one process. Knows no Redis."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from precipiq_contracts.auth import RateState
from precipiq_contracts.clock import Clock
from precipiq_core.addresses import address_to_count

SECOND_US = 1_000_000

_FORGOTTEN_PER_HIT_MAX = 64
"""Ended windows that a hit drops: more than it adds, so the table shrinks, and few, so each hit is cheap."""

_Stamps: TypeAlias = "array[int]"
"""The times of counted requests, in microseconds, oldest first: 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a window holds after a hit; ``left_us`` is the time until the next place in it becomes free."""

    is_admitted: bool
    counted: int
    left_us: int


class WindowCounter(Protocol):
    """Counts in sliding windows: of any ``window_s`` seconds at most ``quota`` hits are admitted and counted.

    A capability between the two plugins of this distribution: ``auth_keys`` provides it as its settings say.
    """

    async def hit(self, name: str, address: str, quota: int, window_s: int) -> Usage:
        """Count one hit, unless the window is full. ``address`` as ``address_to_count`` makes it. MUST NOT raise."""
        ...


class LocalWindows:
    """Counts in this process. ``addresses_max`` bounds each counter: the address counted longest ago leaves first.

    Later hits drop the windows that ended: no timer, no task.
    """

    def __init__(self, clock: Clock, *, addresses_max: int) -> None:
        self._clock = clock
        self._addresses_max = addresses_max
        # By name and window, of which callers have few; within, in the order of the newest hit: the first ends first.
        self._tables: dict[tuple[str, int], OrderedDict[str, _Stamps]] = {}

    async def hit(self, name: str, address: str, quota: int, window_s: int) -> Usage:
        now_us = round(self._clock.monotonic_s() * SECOND_US)
        ended_us = now_us - window_s * SECOND_US
        table = self._tables.setdefault((name, window_s), OrderedDict())
        _forget(table, ended_us)
        stamps = table.get(address)
        if stamps is None:
            stamps = table[address] = array("q")
        else:
            del stamps[: bisect_right(stamps, ended_us)]
        is_admitted = len(stamps) < quota
        if is_admitted:
            stamps.append(now_us)
            table.move_to_end(address)
            if len(table) > self._addresses_max:
                table.popitem(last=False)
        return Usage(is_admitted, len(stamps), stamps[0 if is_admitted else -quota] - ended_us)


def _forget(table: OrderedDict[str, _Stamps], ended_us: int) -> None:
    for _ in range(_FORGOTTEN_PER_HIT_MAX):
        if not table:
            return
        address, stamps = next(iter(table.items()))
        if stamps[-1] > ended_us:
            return
        del table[address]


class AddressWindows:
    """The capability ``AddressLimiter``, over a counter of this process or of all."""

    def __init__(self, counter: WindowCounter) -> None:
        self._counter = counter

    async def hit(self, name: str, address: str | None, quota: int, window_s: int) -> RateState:
        """See ``precipiq_contracts.auth.AddressLimiter``."""
        usage = await self._counter.hit(name, address_to_count(address), quota, window_s)
        left_s = usage.left_us / SECOND_US
        remaining = max(0, quota - usage.counted)
        return RateState(name, quota, window_s, remaining, math.ceil(left_s), 0.0 if usage.is_admitted else left_s)
