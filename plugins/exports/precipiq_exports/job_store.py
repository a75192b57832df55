"""The table of exports, as typed functions over the core's database. Each change is one transaction with its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_core.chain_columns import chain_values
from precipiq_core.outbox import Outbox, OutboxEvent
from precipiq_exports.job_rows import COLUMNS, job_of, request_values, result_values, sealed_request, sealed_result
from precipiq_exports.job_trust import JobRows
from precipiq_exports.jobs import BACKOFF_MAX_S, Beat, Failure, Job, Lease, Range, Status
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowMacs

_LOCK = Statement("UPDATE export_claims SET claims = claims + 1 WHERE id = 1")
"""The first statement where a count must still hold at its use: the row's lock serialises these on all nodes."""

_MINE = "export_id = :export_id AND status = 'running' AND lease_owner = :owner AND attempt = :attempt"


class JobStore:
    """Exports of all chains that this deployment wrote; ``events``: their events that wait to be sealed."""

    def __init__(self, database: Database, macs: RowMacs) -> None:
        self._database = database
        self._macs = macs
        self._rows = JobRows(macs)
        self.events = Outbox(database, "export_events", key_prefix="exports", macs=macs)

    async def add(self, job: Job, idempotency_key: str | None, event: OutboxEvent, *, open_max: int) -> bool:
        """Store a new export; False when as many of its chain are open, or its idempotency key is known."""
        statements = await self._insertion(job, idempotency_key, event, open_max)
        return bool((await self._database.transaction(statements))[1])

    async def add_leased(self, job: Job, event: OutboxEvent, owner: str, lease_until_us: int, *, open_max: int) -> bool:
        """As :meth:`add`, with a lease for the caller, which works on the export at once."""
        begin = Statement(
            f"UPDATE exports SET {_BEGIN} WHERE export_id = :export_id",  # noqa: S608
            {"export_id": job.export_id, "owner": owner, "now": job.created_us, "until": lease_until_us},
        )
        statements = await self._insertion(job, None, event, open_max)
        return bool((await self._database.transaction([*statements, begin]))[1])

    async def _insertion(
        self, job: Job, idempotency_key: str | None, event: OutboxEvent, open_max: int
    ) -> list[Statement]:
        values = request_values(job)
        insert = Statement(
            "INSERT INTO exports (export_id, org_id, environment, status, request, actor, idempotency_key, created_us, "
            "mac) SELECT :export_id, :org_id, :environment, 'pending', :request, :actor, :idempotency_key, "
            ":created_us, :mac "
            "WHERE (SELECT COUNT(*) FROM exports WHERE org_id = :org_id AND environment = :environment "
            "AND status IN ('pending', 'running')) < :max "
            "AND NOT EXISTS (SELECT 1 FROM exports WHERE org_id = :org_id AND environment = :environment "
            "AND idempotency_key = :idempotency_key) RETURNING export_id",
            {
                **values,
                "idempotency_key": idempotency_key,
                "mac": await self._macs.make(sealed_request(values)),
                "max": open_max,
            },
        )
        stored = "WHERE EXISTS (SELECT 1 FROM exports WHERE export_id = :export_id)"
        return [_LOCK, insert, self.events.insert(event, stored, {"export_id": job.export_id})]

    async def by_idempotency_key(self, chain: Chain, key: str) -> Job | None:
        found = await self._select_as(chain, "WHERE idempotency_key = :key", {"key": key})
        return found[0] if found else None

    async def get(self, chain: Chain, export_id: str) -> Job | None:
        found = await self._select_as(chain, "WHERE export_id = :export_id", {"export_id": export_id})
        return found[0] if found else None

    async def page(self, chain: Chain, before_id: str | None, limit: int) -> list[Job]:
        """Newest first: ids grow with time. ``before_id``: the last id of the page before."""
        found: list[Job] = []
        while True:
            where, values = "", dict[str, Scalar](limit=limit)
            if before_id is not None:
                where, values["before"] = "WHERE export_id < :before", before_id
            sql = f"SELECT {COLUMNS} FROM exports {where} ORDER BY export_id DESC LIMIT :limit"  # noqa: S608
            rows = await self._database.fetch_as(chain, Statement(sql, values))
            found += map(job_of, await self._rows.ours(rows))
            if len(rows) < limit or len(found) >= limit:
                return found[:limit]
            before_id = str(rows[-1]["export_id"])

    async def has_open(self, now_us: int) -> bool:
        """Whether an export waits for a runner; locks nothing."""
        sql = f"SELECT 1 AS found FROM exports WHERE {_CLAIMABLE} LIMIT 1"  # noqa: S608
        return bool(await self._database.fetch(Statement(sql, _times(now_us))))

    async def beats(self) -> list[Beat]:
        """The newest sign of life of each export that runs."""
        sql = "SELECT export_id, attempt, lease_until_us FROM exports WHERE status = 'running'"
        return [
            Beat(str(row["export_id"]), cast("int", row["attempt"]), cast("int", row["lease_until_us"]))
            for row in await self._database.fetch(Statement(sql))
        ]

    async def take_over(self, owner: str, beat: Beat, now_us: int, lease_until_us: int) -> Job | None:
        """Claim an export that runs, unless it gave another sign of life after that one."""
        sql = (
            f"UPDATE exports SET {_BEGIN} WHERE export_id = :export_id AND status = 'running' "  # noqa: S608
            f"AND attempt = :attempt AND lease_until_us = :beat RETURNING {COLUMNS}"
        )
        values: dict[str, Scalar] = {**asdict(beat), "owner": owner, "now": now_us, "until": lease_until_us}
        [rows] = await self._database.transaction([Statement(sql, values)])
        return await self._begun(rows)

    async def claim(
        self, owner: str, now_us: int, lease_until_us: int, *, per_organisation_max: int, after_org: str, tests: bool
    ) -> Job | None:
        """Claim an export that waits; None when there is none. Others that run count, also abandoned ones.

        Organisations take turns: ``after_org`` is the one that had the last. Of one, ``live`` goes first, and what runs
        for ``test`` does not count against it; then the oldest. ``tests``: whether one of ``test`` may be claimed.
        """
        sql = (
            f"UPDATE exports SET {_BEGIN} WHERE export_id = (SELECT e.export_id FROM exports e WHERE {_CLAIMABLE} "  # noqa: S608
            "AND (e.environment = 'live' OR :tests = 1) "
            "AND (SELECT COUNT(*) FROM exports r WHERE r.org_id = e.org_id AND r.status = 'running' "
            "AND (e.environment = 'test' OR r.environment = 'live')) < :max "
            "ORDER BY CASE WHEN e.org_id > :after_org THEN 0 ELSE 1 END, e.org_id, e.environment, e.created_us, "
            f"e.export_id LIMIT 1) RETURNING {COLUMNS}"
        )
        values = _times(now_us) | {"owner": owner, "until": lease_until_us, "max": per_organisation_max}
        values |= {"after_org": after_org, "tests": int(tests)}
        while rows := (await self._database.transaction([_LOCK, Statement(sql, values)]))[1]:
            job = await self._begun(rows)
            if job is not None:
                return job
        return None

    async def _begun(self, rows: Sequence[Row]) -> Job | None:
        """The job that was claimed, if it is this deployment's; another is ended, and no entry tells of it."""
        if not rows:
            return None
        if ours := await self._rows.ours(rows):
            return job_of(ours[0])
        sql = "UPDATE exports SET status = 'failed', error_code = :code WHERE export_id = :id AND attempt = :attempt"
        [row] = rows
        values: dict[str, Scalar] = {"code": ROW_UNANNOUNCED, "id": row["export_id"], "attempt": row["attempt"]}
        await self._database.transaction([Statement(sql, values)])
        return None

    async def renew(self, lease: Lease, lease_until_us: int, steps_done: int, steps_total: int) -> bool:
        """Renew the lease, and note the progress; False when the export was cancelled or taken over."""
        return await self._change(
            lease,
            f"{_NEXT_BEAT}, steps_done = :done, steps_total = :total",
            {"until": lease_until_us, "done": steps_done, "total": steps_total},
        )

    async def fix_range(self, lease: Lease, range: Range) -> bool:
        """Note which entries the export looks at; it keeps them over all attempts."""
        values = {"after": range.after_seq, "through": range.through_seq}
        return await self._change(lease, "after_seq = :after, through_seq = :through", values)

    async def complete(self, lease: Lease, job: Job, event: OutboxEvent) -> bool:
        """Note the finished bundle; False when the export was cancelled or taken over: it does not count then."""
        changes = (
            "status = 'completed', finished_us = :finished, expires_us = :expires, size_bytes = :size, "
            "sha256 = :sha256, result = :result, result_mac = :mac"
        )
        row = result_values(replace(job, attempt=lease.attempt))
        values: dict[str, Scalar] = {
            "finished": row["finished_us"],
            "expires": row["expires_us"],
            "size": row["size_bytes"],
            "sha256": row["sha256"],
            "result": row["result"],
            "mac": await self._macs.make(sealed_result(row)),
        }
        return await self._change(lease, changes, values, event, "completed")

    async def give_up(self, lease: Lease, failure: Failure, now_us: int, event: OutboxEvent) -> bool:
        """End the export as failed."""
        changes = "status = 'failed', finished_us = :now, error_code = :code, error_message = :message"
        values: dict[str, Scalar] = {"now": now_us, "code": failure.code, "message": failure.message}
        return await self._change(lease, changes, values, event, "failed")

    async def put_back(self, lease: Lease, not_before_us: int, *, failed: bool) -> bool:
        """Leave the export to the next claim, not before that time."""
        changes = (
            "status = 'pending', lease_owner = NULL, lease_until_us = NULL, not_before_us = :not_before, "
            "failures = failures + :failed"
        )
        return await self._change(lease, changes, {"not_before": not_before_us, "failed": int(failed)})

    async def cancel(self, chain: Chain, export_id: str, now_us: int, event: OutboxEvent) -> bool:
        """End an export that waits or runs; False when it had ended."""
        changes = "status = 'cancelled', finished_us = :now"
        return await self._end(chain, export_id, "('pending', 'running')", changes, now_us, event)

    async def delete(self, chain: Chain, export_id: str, now_us: int, event: OutboxEvent) -> bool:
        """Have a finished bundle expire now; False when there is none."""
        changes = "status = 'expired', expires_us = :now, has_files = 1"
        return await self._end(chain, export_id, "('completed')", changes, now_us, event)

    async def expire(self, now_us: int) -> None:
        """Expire all bundles whose time has come."""
        sql = "UPDATE exports SET status = 'expired', has_files = 1 WHERE status = 'completed' AND expires_us <= :now"
        await self._database.transaction([Statement(sql, {"now": now_us})])

    async def with_leftovers(self, limit: int) -> Sequence[Job]:
        """Exports that ended and may have superfluous files."""
        found: list[Job] = []
        after = ""
        sql = (
            f"SELECT {COLUMNS} FROM exports WHERE has_files = 1 AND export_id > :after "  # noqa: S608
            "AND (status IN ('failed', 'cancelled', 'expired') OR (status = 'completed' AND attempt > 1)) "
            "ORDER BY export_id LIMIT :limit"
        )
        while rows := await self._database.fetch(Statement(sql, {"after": after, "limit": limit})):
            found += map(job_of, await self._rows.ours(rows))
            if len(found) >= limit:
                return found[:limit]
            after = str(rows[-1]["export_id"])
        return found

    async def note_tidied(self, job: Job) -> None:
        """Note that the export's superfluous files are deleted."""
        sql = "UPDATE exports SET has_files = 0 WHERE export_id = :export_id AND status = :status"
        await self._database.transaction([Statement(sql, {"export_id": job.export_id, "status": job.status})])

    async def is_worked_on(self, export_id: str, attempt: int) -> bool:
        """Whether that attempt may still run: no other followed it."""
        sql = "SELECT 1 AS found FROM exports WHERE export_id = :id AND attempt = :attempt AND status = 'running'"
        return bool(await self._database.fetch(Statement(sql, {"id": export_id, "attempt": attempt})))

    async def _change(
        self,
        lease: Lease,
        changes: str,
        values: Mapping[str, Scalar],
        event: OutboxEvent | None = None,
        status: Status = "running",
    ) -> bool:
        sql = f"UPDATE exports SET {changes} WHERE {_MINE} RETURNING export_id"  # noqa: S608
        statements = [Statement(sql, lease.values(**values))]
        if event is not None:
            happened = "WHERE EXISTS (SELECT 1 FROM exports WHERE export_id = :export_id AND status = :status "
            happened += "AND lease_owner = :owner AND attempt = :attempt)"
            statements.append(self.events.insert(event, happened, lease.values(status=status)))
        return bool((await self._database.transaction(statements))[0])

    async def _end(
        self, chain: Chain, export_id: str, from_statuses: str, changes: str, now_us: int, event: OutboxEvent
    ) -> bool:
        which = (
            f"export_id = :export_id AND org_id = :org_id AND environment = :environment AND status IN {from_statuses}"
        )
        values: dict[str, Scalar] = {
            "export_id": export_id,
            **chain_values(chain),
        }
        statements = [
            # The row's lock first: the event's condition must still hold when the export changes.
            Statement("UPDATE exports SET attempt = attempt WHERE export_id = :export_id", {"export_id": export_id}),
            self.events.insert(event, f"WHERE EXISTS (SELECT 1 FROM exports WHERE {which})", values),  # noqa: S608
            Statement(f"UPDATE exports SET {changes} WHERE {which} RETURNING export_id", {**values, "now": now_us}),  # noqa: S608
        ]
        return bool((await self._database.transaction(statements))[2])

    async def _select_as(self, chain: Chain, rest: str, values: dict[str, Scalar]) -> list[Job]:
        sql = f"SELECT {COLUMNS} FROM exports {rest}"  # noqa: S608
        return list(map(job_of, await self._rows.ours(await self._database.fetch_as(chain, Statement(sql, values)))))


_CLAIMABLE = "(status = 'pending' AND (not_before_us <= :now OR not_before_us > :latest)) "
"""A wait longer than any was noted by a clock that was ahead of this one: it counts as over."""

_NEXT_BEAT = "lease_until_us = CASE WHEN COALESCE(lease_until_us, 0) >= :until THEN lease_until_us + 1 ELSE :until END"
"""Another value than before, whatever the clock of the process; processes of earlier versions read it as a time."""


def _times(now_us: int) -> dict[str, Scalar]:
    return {"now": now_us, "latest": now_us + int(BACKOFF_MAX_S * 1_000_000)}


_BEGIN = (
    "failures = failures + CASE WHEN status = 'running' THEN 1 ELSE 0 END, status = 'running', attempt = attempt + 1, "
    "lease_owner = :owner, lease_until_us = :until, started_us = COALESCE(started_us, :now), has_files = 1, "
    "steps_done = 0, not_before_us = 0"
)
