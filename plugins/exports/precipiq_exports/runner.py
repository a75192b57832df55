"""Runs exports: claims a waiting export, makes its bundle under a lease, and ends it exactly once."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace

import structlog

from precipiq_contracts.background import Background
from precipiq_contracts.bundle_store import BundleStore
from precipiq_contracts.chain import SYSTEM
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import PrecipiqError, Unavailable, VaultRefused
from precipiq_core.outbox import OutboxEvent
from precipiq_exports import kinds
from precipiq_exports.errors import KeyUnanchored, UnauthenticEntry
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import BACKOFF_MAX_S, Failure, Job, Lease
from precipiq_exports.leases import LeaseKeeper, LeaseLost, LeaseObserver, Progress
from precipiq_exports.maker import BundleMaker, MadeBundle
from precipiq_exports.metrics import ExportMetrics
from precipiq_exports.records import export_record
from precipiq_exports.service import ExportService, lease_of

log = structlog.get_logger("precipiq.exports")


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """See the settings of the same names."""

    running_max: int
    running_per_organisation_max: int
    failures_max: int
    retry_s: float
    poll_s: float
    retention_s: int


class ExportRunner:
    """Exports of one process. ``owner``: unique among all processes of the deployment."""

    def __init__(
        self,
        owner: str,
        store: JobStore,
        service: ExportService,
        maker: BundleMaker,
        bundles: BundleStore,
        keeper: LeaseKeeper,
        observer: LeaseObserver,
        clock: Clock,
        metrics: ExportMetrics,
        limits: RunnerLimits,
    ) -> None:
        self.owner = owner
        self._store = store
        self._service = service
        self._maker = maker
        self._bundles = bundles
        self._keeper = keeper
        self._observer = observer
        self._clock = clock
        self._metrics = metrics
        self._limits = limits
        self._news = asyncio.Event()
        self._running: dict[asyncio.Task[None], Job] = {}
        self._last_org = ""

    def wake(self) -> None:
        """Claim at once: an export was requested."""
        self._news.set()

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Run exports while the context is entered; the next process to claim an unfinished export takes it over."""
        return background(
            "exports.runner",
            self._claim_all,
            every_s=self._limits.poll_s,
            failing="exports cannot be looked at",
            wake=self._news,
            final=self._leave_all,
        )

    async def _leave_all(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _claim_all(self) -> None:
        while len(self._running) < self._limits.running_max:
            job = await self._claim()
            if job is None:
                return
            # A bare task: it ends with its export, and an expired lease shows other processes that it died.
            task = asyncio.create_task(self._work_unattended(job))
            self._running[task] = job
            self._last_org = job.chain.org_id
            task.add_done_callback(self._note_end)

    async def _claim(self) -> Job | None:
        """An abandoned export, else the one whose turn it is. ``test`` leaves a place to ``live``."""
        now_us, until_us = self._clock.now_us(), self._keeper.until_us()
        for beat in self._observer.abandoned(await self._store.beats()):
            job = await self._store.take_over(self.owner, beat, now_us, until_us)
            if job is not None:
                return job
        if not await self._store.has_open(now_us):
            return None
        tests = sum(running.chain.environment == "test" for running in self._running.values())
        return await self._store.claim(
            self.owner,
            now_us,
            until_us,
            per_organisation_max=self._limits.running_per_organisation_max,
            after_org=self._last_org,
            tests=tests < max(self._limits.running_max - 1, 1),
        )

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("export failed unexpectedly", exc_info=error)
        self.wake()

    async def _work_unattended(self, job: Job) -> None:
        await self.work(job, Progress())

    async def work(self, job: Job, progress: Progress) -> None:
        """Make one attempt at an export that this process has claimed, and store its outcome."""
        lease = lease_of(job, self.owner)
        names = {"export_id": job.export_id, "org_id": job.chain.org_id, "environment": job.chain.environment}
        with structlog.contextvars.bound_contextvars(**names, attempt=job.attempt), self._metrics.count_running():
            try:
                if job.failures >= self._limits.failures_max:
                    failure = Failure("gave_up", f"{job.failures} attempts at it failed or were interrupted")
                    await self._give_up(job, lease, failure)
                    return
                log.info("export started")
                await self._keeper.hold(lease, progress, self._make(job, lease, progress))
            except asyncio.CancelledError:
                await asyncio.shield(self._put_back(lease, 0.0, failed=False))
                raise
            except LeaseLost:
                self._metrics.count("lost")
                log.warning("export is not ours any more: cancelled, or taken over by another process")
            except PrecipiqError as error:
                is_final = isinstance(error, VaultRefused | UnauthenticEntry | KeyUnanchored)
                await self._handle_failure(job, lease, Failure(error.code, error.message), is_final=is_final)
            except Exception:  # the export must end with a reason for any error, and the others go on
                log.exception("export failed unexpectedly")
                await self._handle_failure(
                    job, lease, Failure("internal_error", "an unexpected error; see the server's log")
                )

    async def _make(self, job: Job, lease: Lease, progress: Progress) -> None:
        await self._service.deliver_events()  # so that the request stands in the chain before the export's end
        made = await self._maker.make(job, lease, progress)
        try:
            await self._bundles.put(job.bundle, made.path)
            await self._complete(job, lease, made)
        finally:
            await asyncio.to_thread(made.path.unlink, missing_ok=True)

    async def _complete(self, job: Job, lease: Lease, made: MadeBundle) -> None:
        now_us = self._clock.now_us()
        finished = replace(
            job,
            status="completed",
            range=made.range,
            progress=1.0,
            finished_us=now_us,
            expires_us=now_us + self._limits.retention_s * 1_000_000,
            size_bytes=made.size_bytes,
            sha256=made.sha256,
            result=made.result,
        )
        body: dict[str, object] = {"export": export_record(finished)}
        event = OutboxEvent(f"{job.export_id}:1:{kinds.COMPLETED}", job.chain, kinds.COMPLETED, SYSTEM, body)
        if not await self._store.complete(lease, finished, event) and not await self._is_complete(job):
            await self._bundles.delete(job.bundle)
            raise LeaseLost
        self._metrics.count("completed")
        log.info("export completed", entries=made.result["entries"], size_bytes=made.size_bytes, sha256=made.sha256)
        await self._service.deliver_events()

    async def _is_complete(self, job: Job) -> bool:
        """Whether the store has this attempt's result, from a transaction of unknown outcome."""
        stored = await self._store.get(job.chain, job.export_id)
        return stored is not None and (stored.status, stored.attempt) == ("completed", job.attempt)

    async def _handle_failure(self, job: Job, lease: Lease, failure: Failure, *, is_final: bool = False) -> None:
        failures = job.failures + 1
        if is_final or failures >= self._limits.failures_max:
            await self._give_up(job, lease, failure)
            return
        wait_s = min(self._limits.retry_s * 2 ** (failures - 1), BACKOFF_MAX_S)
        self._metrics.count("retried")
        log.warning("export failed; it is tried again", code=failure.code, reason=failure.message, wait_s=wait_s)
        await self._put_back(lease, wait_s, failed=True)

    async def _give_up(self, job: Job, lease: Lease, failure: Failure) -> None:
        now_us = self._clock.now_us()
        ended = replace(job, status="failed", finished_us=now_us, failure=failure)
        body: dict[str, object] = {"export": export_record(ended)}
        event = OutboxEvent(f"{job.export_id}:1:{kinds.FAILED}", job.chain, kinds.FAILED, SYSTEM, body)
        with suppress(Unavailable):  # the lease ends, and the next process to claim the export gives it up
            if await self._store.give_up(lease, failure, now_us, event):
                self._metrics.count("failed")
                log.error("export given up", code=failure.code, reason=failure.message)
                await self._service.deliver_events()

    async def _put_back(self, lease: Lease, wait_s: float, *, failed: bool) -> None:
        with suppress(Unavailable):  # the lease ends by itself
            await self._store.put_back(lease, self._clock.now_us() + int(wait_s * 1_000_000), failed=failed)
