"""Exports: asked for, listed, downloaded, cancelled, deleted; each of these recorded in the chain. Knows no HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from precipiq_contracts.bundle_store import BundleStore
from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock, Randomness, uuid7
from precipiq_contracts.errors import Conflict, IdempotencyConflict, NotFound, Unavailable
from precipiq_contracts.ledger import Ledger
from precipiq_contracts.plans import Plans
from precipiq_core.outbox import OutboxEvent
from precipiq_exports import kinds
from precipiq_exports.errors import ExportExpired, ExportNotReady, TooManyExports
from precipiq_exports.job_store import JobStore
from precipiq_exports.jobs import Job, Lease, Request


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """See the settings ``open_per_organisation_max``, ``downloads_max`` and ``lease_s``."""

    open_per_organisation_max: int
    downloads_max: int
    lease_s: float


class ExportService:
    """The operations on exports. ``on_change`` is called when an export was added or ended.

    A limit of ``plans`` overrides ``open_per_organisation_max``.
    """

    def __init__(
        self,
        store: JobStore,
        bundles: BundleStore,
        ledger: Ledger,
        clock: Clock,
        randomness: Randomness,
        limits: ServiceLimits,
        plans: Plans | None = None,
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness
        self._limits = limits
        self._plans = plans
        self._downloads: Counter[str] = Counter()
        self.on_change: Callable[[], None] = lambda: None

    async def request(self, chain: Chain, request: Request, actor: str, key: str | None = None) -> tuple[Job, bool]:
        """Add an export; gives whether it is new (a known idempotency key gives the first export).

        Raises ``TooManyExports`` and ``IdempotencyConflict``.
        """
        job = self._new(chain, request, actor)
        if await self._store.add(job, key, _request_event(job), open_max=self._open_max(chain.org_id)):
            await self.deliver_events()
            self.on_change()
            return job, True
        known = None if key is None else await self._store.by_idempotency_key(chain, key)
        if known is None:
            raise TooManyExports(retry_after_s=30)
        if known.request != request:
            raise IdempotencyConflict
        return known, False

    async def request_leased(self, chain: Chain, request: Request, actor: str, owner: str) -> Job:
        """As :meth:`request`, for ``owner`` to run at once."""
        job = self._new(chain, request, actor)
        until_us = job.created_us + int(self._limits.lease_s * 1_000_000)
        open_max = self._open_max(chain.org_id)
        if not await self._store.add_leased(job, _request_event(job), owner, until_us, open_max=open_max):
            raise TooManyExports(retry_after_s=30)
        await self.deliver_events()
        return await self.get(chain, job.export_id)

    async def get(self, chain: Chain, export_id: str) -> Job:
        """That export. Raises ``NotFound``, also for an export of another chain."""
        job = await self._store.get(chain, export_id)
        if job is None:
            raise NotFound
        return job

    async def page(self, chain: Chain, before_id: str | None, limit: int) -> Sequence[Job]:
        """Exports of that chain, newest first."""
        return await self._store.page(chain, before_id, limit)

    async def give_up(self, chain: Chain, export_id: str, actor: str) -> Job:
        """Cancel an export that waits or runs, or delete the bundle of a finished one; a repeat changes nothing."""
        job = await self.get(chain, export_id)
        now_us = self._clock.now_us()
        if job.status in ("pending", "running"):
            event = _event(job, kinds.CANCELLED, actor, {"export_id": export_id}, order=1)
            await self._store.cancel(chain, export_id, now_us, event)
            job = await self.get(chain, export_id)
        elif job.status == "completed":
            event = _event(job, kinds.DELETED, actor, {"export_id": export_id, "sha256": job.sha256}, order=2)
            await self._store.delete(chain, export_id, now_us, event)
            job = await self.get(chain, export_id)
        if job.status in ("pending", "running", "completed"):
            raise Conflict("the export changed at the same moment; try again")
        await self.deliver_events()
        self.on_change()
        return job

    async def get_downloadable(self, chain: Chain, export_id: str) -> Job:
        """That export, with a bundle in the store.

        Raises ``NotFound``, ``ExportNotReady``, ``ExportExpired``, and ``Unavailable`` when too many are downloaded.
        """
        job = await self.get(chain, export_id)
        if job.status == "expired" or (job.expires_us is not None and job.expires_us <= self._clock.now_us()):
            raise ExportExpired
        if job.status != "completed":
            raise ExportNotReady(f"the export is {job.status}: it has no bundle to download")
        if not self._may_download(chain.org_id):
            raise Unavailable("too many bundles are downloaded; try again", retry_after_s=10)
        size_bytes = await self._bundles.size(job.bundle)
        if size_bytes != job.size_bytes:
            where = "" if self._bundles.is_shared else "; it may lie on another machine of this deployment"
            raise Unavailable(f"the bundle is not where this server looks for it{where}", retry_after_s=30)
        return job

    async def read(self, job: Job, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes of its bundle from ``start`` to before ``end``. ``Downloads.begin`` precedes their leaving."""
        org_id = job.chain.org_id
        self._downloads[org_id] += 1
        try:
            async with aclosing(self._bundles.read(job.bundle, start, end)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._downloads[org_id] -= 1
            if not self._downloads[org_id]:
                del self._downloads[org_id]

    def _may_download(self, org_id: str) -> bool:
        """One organisation has at most half of the places."""
        most = self._limits.downloads_max
        return self._downloads.total() < most and self._downloads[org_id] < max(most // 2, 1)

    async def deliver_events(self) -> None:
        """Seal the waiting events. An event that cannot be sealed now stays durable, and is tried again."""
        await self._store.events.deliver(self._ledger)

    def _open_max(self, org_id: str) -> int:
        planned = None if self._plans is None else self._plans.limits_of(org_id).open_exports_max
        return self._limits.open_per_organisation_max if planned is None else planned

    def _new(self, chain: Chain, request: Request, actor: str) -> Job:
        now_us = self._clock.now_us()
        export_id = f"exp_{uuid7(now_us, self._randomness.bytes(10)).replace('-', '')}"
        return Job(
            export_id, chain, "pending", request, actor, now_us, None, None, None, 0, 0, None, 0.0, None, None, {}, None
        )


def lease_of(job: Job, owner: str) -> Lease:
    """The lease that a claim gave."""
    return Lease(job.export_id, job.attempt, owner)


def _request_event(job: Job) -> OutboxEvent:
    body: dict[str, object] = {
        "export_id": job.export_id,
        "filters": job.request.filters,
        "formats": list(job.request.formats),
    }
    return _event(job, kinds.REQUESTED, job.actor, body, order=0)


def _event(job: Job, kind: str, actor: str, body: dict[str, object], *, order: int) -> OutboxEvent:
    """An event whose id depends only on the export and ``order``, the event's place among the export's events."""
    return OutboxEvent(f"{job.export_id}:{order}:{kind}", job.chain, kind, actor, body)
