"""Working on an export while its lease holds, and renewing it in time; a process without the lease must stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import Unavailable
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import Beat, Lease

T = TypeVar("T")

_RENEWALS_PER_LEASE = 5


class LeaseLost(Exception):
    """The export was cancelled, or another process took it over."""


@dataclass
class Progress:
    """How far an export is. One step: one entry read once."""

    steps_done: int = 0
    steps_total: int = 0

    def advance(self, steps: int) -> None:
        self.steps_done = min(self.steps_done + steps, self.steps_total)


class LeaseObserver:
    """Finds abandoned exports: those whose sign of life stays the same for a lease's time, by this process's clock.

    No process compares its time of day with another's, so a machine's clock may be off by any distance.
    """

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._since_s: dict[Beat, float] = {}

    def abandoned(self, beats: Sequence[Beat]) -> list[Beat]:
        """Those of the present signs of life that have not changed for a lease's time."""
        now_s = self._clock.monotonic_s()
        self._since_s = {beat: self._since_s.get(beat, now_s) for beat in beats}
        return [beat for beat, since_s in self._since_s.items() if now_s - since_s >= self._lease_s]


class LeaseKeeper:
    """Renews leases of one process."""

    def __init__(self, store: JobStore, clock: Clock, lease_s: float) -> None:
        self._store = store
        self._clock = clock
        self._lease_s = lease_s

    def until_us(self) -> int:
        """The sign of life of now: a lease's end by this clock."""
        return self._clock.now_us() + int(self._lease_s * 1_000_000)

    async def hold(self, lease: Lease, progress: Progress, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` while the lease holds, and give its result. A lost lease cancels it. Raises ``LeaseLost``."""
        task = asyncio.ensure_future(work)
        renewed_s = self._clock.monotonic_s()
        try:
            while not (await asyncio.wait([task], timeout=self._lease_s / _RENEWALS_PER_LEASE))[0]:
                asked_s = self._clock.monotonic_s()
                try:
                    if not await self._store.renew(lease, self.until_us(), progress.steps_done, progress.steps_total):
                        raise LeaseLost
                    renewed_s = asked_s
                except Unavailable:
                    if self._clock.monotonic_s() - renewed_s > self._lease_s:
                        raise LeaseLost from None
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
