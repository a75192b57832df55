"""Rows of the table of exports: what their MACs cover, and the job that one stands for. Pure.

A row changes with every sign of life of its attempt. So it has two MACs: of what was asked for and by whom, which never
changes, and of what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from precipiq_contracts.database import Row, Scalar
from precipiq_core.chain_columns import chain_in, chain_values
from precipiq_exports.jobs import Failure, Job, Range, Request, Status
from precipiq_macs.row_macs import SealedValues

COLUMNS = (
    "export_id, org_id, environment, status, request, actor, created_us, started_us, finished_us, expires_us, attempt, "
    "failures, after_seq, through_seq, steps_done, steps_total, size_bytes, sha256, result, error_code, error_message, "
    "mac, result_mac"
)
REQUEST = ("export_id", "org_id", "environment", "request", "actor", "created_us")
RESULT = (
    "export_id",
    "org_id",
    "environment",
    "attempt",
    "finished_us",
    "expires_us",
    "size_bytes",
    "sha256",
    "result",
)


def request_values(job: Job) -> dict[str, Scalar]:
    """The columns of what was asked for."""
    return {
        "export_id": job.export_id,
        **chain_values(job.chain),
        "request": json.dumps(asdict(job.request), separators=(",", ":")),
        "actor": job.actor,
        "created_us": job.created_us,
    }


def result_values(job: Job) -> dict[str, Scalar]:
    """The columns of what came of a completed export."""
    return {
        "export_id": job.export_id,
        **chain_values(job.chain),
        "attempt": job.attempt,
        "finished_us": job.finished_us,
        "expires_us": job.expires_us,
        "size_bytes": job.size_bytes,
        "sha256": job.sha256,
        "result": json.dumps(job.result, separators=(",", ":")),
    }


def sealed_request(row: Mapping[str, Scalar]) -> SealedValues:
    """What ``mac`` covers."""
    return SealedValues("exports", {name: row[name] for name in REQUEST})


def sealed_result(row: Mapping[str, Scalar]) -> SealedValues:
    """What ``result_mac`` covers."""
    return SealedValues("exports: result", {name: row[name] for name in RESULT})


def job_of(row: Row) -> Job:
    """The job; the row has ``COLUMNS`` and is this deployment's."""
    request: dict[str, Any] = json.loads(str(row["request"]))
    total = cast("int", row["steps_total"])
    done = cast("int", row["steps_done"])
    is_ranged = row["through_seq"] is not None
    failure = None if row["error_code"] is None else Failure(str(row["error_code"]), str(row["error_message"]))
    status = cast("Status", row["status"])
    return Job(
        str(row["export_id"]),
        chain_in(row),
        status,
        Request(**{**request, "formats": tuple(request["formats"])}),
        str(row["actor"]),
        cast("int", row["created_us"]),
        cast("int | None", row["started_us"]),
        cast("int | None", row["finished_us"]),
        cast("int | None", row["expires_us"]),
        cast("int", row["attempt"]),
        cast("int", row["failures"]),
        Range(cast("int", row["after_seq"]), cast("int", row["through_seq"])) if is_ranged else None,
        1.0 if status in ("completed", "expired") else min(done / total, 0.99) if total else 0.0,
        cast("int | None", row["size_bytes"]),
        cast("str | None", row["sha256"]),
        {} if row["result"] is None else json.loads(str(row["result"])),
        failure,
    )
