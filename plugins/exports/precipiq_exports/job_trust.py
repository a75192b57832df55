"""Whether a stored export counts: this deployment wrote what was asked for, and what came of it.

A row that somebody else wrote starts no export, shows none, and gives out no bundle.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.database import Database, Row, Statement
from precipiq_contracts.ledger import Ledger
from precipiq_core.chain_columns import chain_in
from precipiq_core.outbox import Outbox
from precipiq_exports.job_rows import COLUMNS, sealed_request, sealed_result
from precipiq_exports.kinds import COMPLETED, REQUESTED
from precipiq_macs.announcements import Announcements
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding, RowMacs, SealedValues
from precipiq_macs.row_reports import NOT_OURS, RowReports

_PAGE = 200
_ALTERED = "what came of it was not written by a server of this deployment"


class JobRows:
    """The check of rows before they are used."""

    def __init__(self, macs: RowMacs) -> None:
        self._macs = macs
        self._reports = RowReports("precipiq.exports", "an export's row does not count: it gives out nothing")

    async def ours(self, rows: Sequence[Row]) -> list[Row]:
        """Those that this deployment wrote; the others are logged once. Raises ``Unavailable``."""
        found: list[Row] = []
        for row in rows:
            problem = await self.problem(row)
            if problem is None:
                found.append(row)
            else:
                self._reports.note(chain_in(row), [RowFinding(ROW_UNANNOUNCED, str(row["export_id"]), problem)])
        return found

    async def problem(self, row: Row) -> str | None:
        """Why the row does not count; None when it does."""
        if not await self._holds(sealed_request(row), row["mac"]):
            return NOT_OURS
        if row["status"] == "completed" and not await self._holds(sealed_result(row), row["result_mac"]):
            return _ALTERED
        return None

    async def _holds(self, sealed: SealedValues, mac: object) -> bool:
        return await self._macs.hold(sealed, None if mac is None else str(mac))


class JobTrust:
    """The comparison of all exports of a chain; a value of ``trusted_rows``. ``events``: of exports."""

    name = "exports"

    def __init__(self, database: Database, events: Outbox, ledger: Ledger, macs: RowMacs) -> None:
        self._database = database
        self._events = events
        self._ledger = ledger
        self._macs = macs
        self._rows = JobRows(macs)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``TrustedRows.chains``."""
        for row in await self._database.fetch(Statement("SELECT DISTINCT org_id, environment FROM exports")):
            yield chain_in(row)

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``."""
        findings: list[RowFinding] = []
        after = ""
        sql = f"SELECT {COLUMNS} FROM exports WHERE export_id > :after ORDER BY export_id LIMIT :limit"  # noqa: S608
        while page := await self._database.fetch_as(chain, Statement(sql, {"after": after, "limit": _PAGE})):
            for row in page:
                if (problem := await self._rows.problem(row)) is not None:
                    findings.append(RowFinding(ROW_UNANNOUNCED, str(row["export_id"]), problem))
            after = str(page[-1]["export_id"])
        return findings

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``."""
        await self._events.deliver_all(self._ledger)
        said = Announcements[dict[str, Mapping[str, Any]]](
            self._ledger, (REQUESTED, COMPLETED), dict[str, Mapping[str, Any]], _fold
        )
        after = ""
        sql = f"SELECT {COLUMNS} FROM exports WHERE export_id > :after ORDER BY export_id LIMIT :limit"  # noqa: S608
        while page := await self._database.fetch(Statement(sql, {"after": after, "limit": _PAGE})):
            for row in page:
                announced = (await said.of(chain_in(row))).get(str(row["export_id"]), {})
                await self._adopt(row, announced)
            after = str(page[-1]["export_id"])

    async def _adopt(self, row: Row, announced: Mapping[str, Any]) -> None:
        changes: list[Statement] = []
        is_asked = announced.get("actor") == row["actor"] and announced.get("asked") == _asked(row)
        if is_asked:
            sql = "UPDATE exports SET mac = :mac WHERE export_id = :export_id"
            mac = await self._macs.make(sealed_request(row))
            changes.append(Statement(sql, {"mac": mac, "export_id": row["export_id"]}))
        if is_asked and row["sha256"] is not None and announced.get("sha256") == row["sha256"]:
            sql = "UPDATE exports SET result_mac = :mac WHERE export_id = :export_id AND status = :status"
            mac = await self._macs.make(sealed_result(row))
            changes.append(Statement(sql, {"mac": mac, "export_id": row["export_id"], "status": row["status"]}))
        if changes:
            await self._database.transaction(changes)


def _asked(row: Row) -> object:
    """What was asked for, as the entry says it."""
    try:
        return json.loads(str(row["request"]))
    except ValueError:
        return None


def _fold(said: dict[str, Mapping[str, Any]], entry: Entry) -> None:
    statement = parse_statement(entry.statement)
    body: Mapping[str, Any] = statement.body
    if statement.kind == REQUESTED:
        asked = {**(body.get("filters") or {}), "formats": body.get("formats")}
        said[str(body.get("export_id"))] = {"actor": statement.actor, "asked": asked}
    else:
        record = body.get("export") or {}
        said[str(record.get("id"))] = {**said.get(str(record.get("id")), {}), "sha256": record.get("sha256")}
