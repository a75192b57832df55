"""The upkeep of exports without a runner: expire them, delete their superfluous files, seal their events."""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.bundle_store import BundleStore
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import PrecipiqError
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import Job, bundle_name
from precipiq_exports.service import ExportService

_AT_ONCE_MAX = 100
_WORK_FILE = re.compile(r"(exp_[0-9a-f]{32})\.(\d{1,9})\.zip")


class Upkeep:
    """Runs beside the exports of each process; several processes may do the same at once."""

    def __init__(
        self,
        store: JobStore,
        service: ExportService,
        bundles: BundleStore,
        clock: Clock,
        work_folder: Path,
        interval_s: float,
    ) -> None:
        self._store = store
        self._service = service
        self._bundles = bundles
        self._clock = clock
        self._work_folder = work_folder
        self._interval_s = interval_s

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Look while the context is entered."""
        return background(
            "exports.upkeep",
            self.look,
            every_s=self._interval_s,
            failing="exports cannot be looked after",
            round_s_max=LONG_ROUND_S_MAX,
            tolerated=(PrecipiqError, OSError),  # entries must be accepted while no bundle can be deleted
        )

    async def look(self) -> None:
        """Once."""
        await self._service.deliver_events()
        await self._store.expire(self._clock.now_us())
        for job in await self._store.with_leftovers(_AT_ONCE_MAX):
            await self._tidy(job)
        for path in await asyncio.to_thread(self._work_files):
            await self._remove_if_left_behind(path)

    async def _tidy(self, job: Job) -> None:
        """Delete the bundles of all attempts, except a completed export's result."""
        last = job.attempt - 1 if job.status == "completed" else job.attempt
        for attempt in range(1, last + 1):
            await self._bundles.delete(bundle_name(job.export_id, attempt))
        await self._store.note_tidied(job)

    def _work_files(self) -> list[Path]:
        return sorted(self._work_folder.iterdir()) if self._work_folder.is_dir() else []

    async def _remove_if_left_behind(self, path: Path) -> None:
        """Delete a work file whose attempt has no lease any more: its process was killed, and another took over."""
        match = _WORK_FILE.fullmatch(path.name)
        if match is None or not await self._store.is_worked_on(match[1], int(match[2])):
            await asyncio.to_thread(path.unlink, missing_ok=True)
