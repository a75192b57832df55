"""An export and its downloads in the shape of the contract. Pure."""

from __future__ import annotations

from typing import Any

from precipiq_contracts.clock import format_moment, format_timestamp
from precipiq_exports.download_store import RecordedDownload
from precipiq_exports.jobs import Job


def export_record(job: Job) -> dict[str, Any]:
    """An export as the REST interface, its entries in the chain and the stream show it.

    ``progress``: 0 to 1. ``range``: the entries that it looks at, known once it runs. ``counts``: entries of the
    bundle by kind. ``is_valid``: whether the range held when it was verified for the bundle.
    """
    result = job.result
    return {
        "id": job.export_id,
        "status": job.status,
        "created_at": format_timestamp(job.created_us),
        "started_at": format_moment(job.started_us),
        "finished_at": format_moment(job.finished_us),
        "expires_at": format_moment(job.expires_us),
        "requested_by": job.actor,
        "filters": job.request.filters,
        "formats": list(job.request.formats),
        "range": None
        if job.range is None
        else {"after_seq": job.range.after_seq, "through_seq": job.range.through_seq},
        "progress": round(job.progress, 3),
        "entries": result.get("entries"),
        "counts": result.get("counts"),
        "is_valid": result.get("is_valid"),
        "verdict": result.get("verdict"),
        "size": job.size_bytes,
        "sha256": job.sha256,
        "signing_key": result.get("signing_key"),
        "error": None if job.failure is None else {"code": job.failure.code, "message": job.failure.message},
    }


def download_record(download: RecordedDownload) -> dict[str, Any]:
    """A download in the contract's shape; ``key_id`` is ``system`` for the command line."""
    return {
        "id": download.download_id,
        "export_id": download.export_id,
        "key_id": download.actor,
        "opened_at": format_timestamp(download.opened_us),
        "entry_seq": download.entry_seq,
        "requests": download.requests,
        "asked_bytes": download.asked_bytes,
        "sent_bytes": download.sent_bytes,
    }
