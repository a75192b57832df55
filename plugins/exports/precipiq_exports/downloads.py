"""The record of the bytes that leave: an entry for each download, sealed before its first byte. Knows no HTTP.

A download is a key, an export and a span of time. A request for the whole bundle begins another one; a request for a
part goes on with the key's newest download of that bundle, or begins one. So a client that resumes, or loads parts
beside each other, makes one entry, and the entry's counts tell the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from precipiq_chain.chain_format import parse_statement, statement_id
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.clock import Clock, Randomness, uuid7
from precipiq_contracts.errors import PrecipiqError
from precipiq_contracts.ledger import Ledger
from precipiq_exports.download_store import DownloadStore, RecordedDownload, Span
from precipiq_exports.errors import ExportExpired
from precipiq_exports.jobs import Job
from precipiq_exports.kinds import DOWNLOADED
from precipiq_exports.metrics import ExportMetrics

log = structlog.get_logger("precipiq.exports")


class Downloads:
    """The operations on downloads. ``session_s``: see the setting ``download_session_s``."""

    def __init__(
        self,
        store: DownloadStore,
        ledger: Ledger,
        clock: Clock,
        randomness: Randomness,
        metrics: ExportMetrics,
        session_s: float,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._randomness = randomness
        self._metrics = metrics
        self._session_us = int(session_s * 1_000_000)

    async def begin(self, job: Job, actor: str, start: int, end: int) -> RecordedDownload:
        """Record a request for the bytes ``start`` <= index < ``end`` of the export's bundle; they may leave after it.

        The entry is in the chain, and the request is counted, when this returns. Raises ``Unavailable`` and
        ``ExportExpired``: then no byte may leave.
        """
        now_us = self._clock.now_us()
        span = Span(now_us - self._session_us, now_us + self._session_us)
        is_whole = (start, end) == (0, job.size_bytes)
        download = None if is_whole else await self._store.newest(job, actor, span)
        if download is None:
            download = await self._store.open(self._new(job, actor, now_us), span, is_whole=is_whole)
        if download is None:
            raise ExportExpired
        if not await self._is_in_chain(job, download):
            download = await self._seal(job, download)
        await self._store.count(download, end - start)
        return download

    async def end(self, download: RecordedDownload, start: int, sent_bytes: int) -> None:
        """Count the bytes that a request has sent from ``start`` on. A count that cannot be stored is logged."""
        self._metrics.count_sent(sent_bytes)
        try:
            await self._store.add_sent(download.download_id, sent_bytes)
        except PrecipiqError as error:
            log.warning("sent bytes not counted", download_id=download.download_id, reason=error.message)
        log.info(
            "bundle bytes sent",
            download_id=download.download_id,
            export_id=download.export_id,
            org_id=download.chain.org_id,
            environment=download.chain.environment,
            actor=download.actor,
            entry_seq=download.entry_seq,
            first_byte=start,
            sent_bytes=sent_bytes,
        )

    async def page(
        self, chain: Chain, export_id: str | None, before_id: str | None, limit: int
    ) -> Sequence[RecordedDownload]:
        """Downloads of that export, or of all of the chain, newest first."""
        return await self._store.page(chain, export_id, before_id, limit)

    async def _is_in_chain(self, job: Job, download: RecordedDownload) -> bool:
        """Whether the chain has the download's entry: the table alone does not show it."""
        if download.entry_id is None:
            return False
        entry = await self._ledger.get(job.chain, download.entry_id)
        return entry is not None and _tells(entry, job, download)

    async def _seal(self, job: Job, download: RecordedDownload) -> RecordedDownload:
        """Seal the entry; the idempotency key makes it one, whichever node was first."""
        draft = Draft(DOWNLOADED, download.actor, _body(job, download), None, f"exports:{download.download_id}")
        appended = await self._ledger.append(job.chain, [draft])
        if appended.created[0]:
            self._metrics.count_download()
        entry = appended.entries[0]
        return replace(download, entry_id=statement_id(entry.statement), entry_seq=entry.seq)

    def _new(self, job: Job, actor: str, now_us: int) -> RecordedDownload:
        download_id = f"dl_{uuid7(now_us, self._randomness.bytes(10)).replace('-', '')}"
        return RecordedDownload(download_id, job.export_id, job.chain, actor, now_us)


def _body(job: Job, download: RecordedDownload) -> dict[str, object]:
    return {"export_id": job.export_id, "sha256": job.sha256, "download_id": download.download_id}


def _tells(entry: Entry, job: Job, download: RecordedDownload) -> bool:
    try:
        told = parse_statement(entry.statement)
    except (ValueError, TypeError, RecursionError):  # damaged: verification names it
        return False
    return (told.kind, told.actor, told.body) == (DOWNLOADED, download.actor, _body(job, download))
