"""The comparison of Stripe's deliveries and their registers, all of a chain's; values of ``trusted_rows``.

Before the MACs nothing told who wrote a row, so rows are adopted as they were found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

from precipiq_billing.delivery_check import DeliveryCheck
from precipiq_billing.delivery_rows import DELIVERY_COLUMNS, REGISTER_COLUMNS, sealed_delivery, sealed_register
from precipiq_billing.kinds import FINANCIAL_EVENT
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import SYSTEM, Chain, Entry
from precipiq_contracts.database import Database, Row, Scalar, Statement
from precipiq_contracts.ledger import Ledger
from precipiq_core.chain_columns import chain_in
from precipiq_macs.row_macs import ROW_UNANNOUNCED, RowFinding, RowMacs, SealedValues
from precipiq_macs.row_reports import NOT_OURS

_PAGE = 500
_ENTRIES_AT_ONCE_MAX = 10_000
_GONE = "the chain tells of its money, and its delivery is gone"

_PAGE_OF_DELIVERIES = Statement(
    f"SELECT {DELIVERY_COLUMNS} FROM stripe_deliveries "  # noqa: S608
    "WHERE (org_id, environment, event_id) > (:org_id, :environment, :event_id) "
    "ORDER BY org_id, environment, event_id LIMIT :limit"
)
_ADDED = (
    "(SELECT CAST(COALESCE(SUM(d.difference), 0) AS BIGINT) FROM stripe_deliveries d WHERE d.org_id = r.org_id "
    "AND d.environment = r.environment AND d.register = r.register) AS added"
)
_PAGE_OF_REGISTERS = Statement(
    f"SELECT {REGISTER_COLUMNS}, {_ADDED} FROM stripe_registers r "  # noqa: S608
    "WHERE (r.org_id, r.environment, r.register) > (:org_id, :environment, :register) "
    "ORDER BY r.org_id, r.environment, r.register LIMIT :limit"
)


class _Table:
    """What both tables have in common."""

    name: str

    def __init__(self, database: Database, macs: RowMacs) -> None:
        self._database = database
        self._macs = macs
        self._check = DeliveryCheck(macs)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``TrustedRows.chains``."""
        sql = f"SELECT DISTINCT org_id, environment FROM {self.name}"  # noqa: S608
        for row in await self._database.fetch(Statement(sql)):
            yield chain_in(row)

    async def _pages(self, page: Statement, key: str, chain: Chain | None) -> AsyncIterator[Sequence[Row]]:
        after: dict[str, Scalar] = {"org_id": "", "environment": "", key: ""}
        if chain is not None:
            after = {"org_id": chain.org_id, "environment": chain.environment, key: ""}
        while True:
            statement = Statement(page.sql, {**after, "limit": _PAGE})
            fetched = self._database.fetch(statement) if chain is None else self._database.fetch_as(chain, statement)
            rows = await fetched
            if not rows:
                return
            yield rows
            after = {name: rows[-1][name] for name in after}

    def _matches(self, sealed: SealedValues, row: Row) -> bool:
        return row["mac"] is not None and self._macs.matches(sealed, str(row["mac"]))


class DeliveryTrust(_Table):
    """Deliveries: each written by this deployment and in a register, and those that entries tell of are there.

    The entries of a long chain are compared in turns, ``_ENTRIES_AT_ONCE_MAX`` in an audit; what is found to be missing
    stays so until it is there again.
    """

    name = "stripe_deliveries"

    def __init__(self, database: Database, ledger: Ledger, macs: RowMacs) -> None:
        super().__init__(database, macs)
        self._ledger = ledger
        self._compared_through: dict[Chain, int] = {}
        self._gone: dict[Chain, set[str]] = {}

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``."""
        findings: list[RowFinding] = []
        async for rows in self._pages(_PAGE_OF_DELIVERIES, "event_id", chain):
            wrong = await asyncio.to_thread(self._wrong, rows)
            if wrong and await self._macs.is_settled():
                findings += [RowFinding(ROW_UNANNOUNCED, event_id, NOT_OURS) for event_id in wrong]
            kept = {str(row["register"]) for row in rows if row["event_id"] not in wrong and row["told"] is not None}
            findings += [
                RowFinding(ROW_UNANNOUNCED, name, "its deliveries are there, and it is gone")
                for name in sorted(kept - await self._registers(chain, kept))
            ]
        findings += [RowFinding(ROW_UNANNOUNCED, event_id, _GONE) for event_id in await self._missing(chain)]
        return list(dict.fromkeys(findings))

    async def _missing(self, chain: Chain) -> Sequence[str]:
        """The events that entries tell of and no delivery: with a register of that time, they would be booked again."""
        known = sorted(self._gone.get(chain, ()))[:_PAGE]
        missing = set(await self._without_row(chain, known))
        seq = self._compared_through.get(chain, 0)
        for _ in range(0, _ENTRIES_AT_ONCE_MAX, _PAGE):
            page = await self._ledger.read(chain, seq, _PAGE, FINANCIAL_EVENT)
            told = [str(body["external_id"]) for body in map(_delivered, page) if body is not None]
            missing.update(await self._without_row(chain, told))
            seq = page[-1].seq if page else 0
            if seq == 0:
                break
        self._compared_through[chain] = seq
        self._gone[chain] = missing
        return sorted(missing)

    async def _without_row(self, chain: Chain, event_ids: Sequence[str]) -> Sequence[str]:
        if not event_ids:
            return ()
        values: dict[str, Scalar] = {f"event_{index}": event_id for index, event_id in enumerate(event_ids)}
        sql = f"SELECT event_id FROM stripe_deliveries WHERE event_id IN ({', '.join(f':{each}' for each in values)})"  # noqa: S608
        found = {str(row["event_id"]) for row in await self._database.fetch_as(chain, Statement(sql, values))}
        return [event_id for event_id in event_ids if event_id not in found]

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``."""
        sql = (
            "UPDATE stripe_deliveries SET mac = :mac WHERE org_id = :org_id AND environment = :environment "
            "AND event_id = :event_id AND COALESCE(draft, '') = :draft AND COALESCE(created_s, -1) = :created_s"
        )
        async for rows in self._pages(_PAGE_OF_DELIVERIES, "event_id", None):
            statements: list[Statement] = []
            for row in rows:
                if not self._matches(sealed_delivery(row), row):
                    values = {name: row[name] for name in ("org_id", "environment", "event_id")}
                    values["draft"] = row["draft"] or ""
                    values["created_s"] = -1 if row["created_s"] is None else row["created_s"]
                    values["mac"] = await self._macs.make(sealed_delivery(row))
                    statements.append(Statement(sql, values))
            if statements:
                await self._database.transaction(statements)

    def _wrong(self, rows: Sequence[Row]) -> dict[str, None]:
        return {str(row["event_id"]): None for row in rows if not self._matches(sealed_delivery(row), row)}

    async def _registers(self, chain: Chain, names: set[str]) -> set[str]:
        among = {f"register_{index}": name for index, name in enumerate(sorted(names))}
        if not among:
            return set()
        sql = f"SELECT register FROM stripe_registers WHERE register IN ({', '.join(f':{each}' for each in among)})"  # noqa: S608
        return {str(row["register"]) for row in await self._database.fetch_as(chain, Statement(sql, among))}


def _delivered(entry: Entry) -> Mapping[str, object] | None:
    """The body of an entry that was made of a delivery."""
    statement = parse_statement(entry.statement)
    is_ours = statement.actor == SYSTEM and statement.body.get("source") == "stripe"
    return statement.body if is_ours else None


class RegisterTrust(_Table):
    """Registers: each written by this deployment, and what its deliveries make."""

    name = "stripe_registers"

    async def audit(self, chain: Chain) -> Sequence[RowFinding]:
        """See ``TrustedRows.audit``."""
        findings: list[RowFinding] = []
        async for rows in self._pages(_PAGE_OF_REGISTERS, "register", chain):
            for row in rows:
                problem = await self._check.register_problem(row, cast("int", row["added"]))
                if problem is not None and problem != NOT_OURS:
                    problem = await self._second_look(chain, str(row["register"]))
                if problem is not None:
                    findings.append(RowFinding(ROW_UNANNOUNCED, str(row["register"]), problem))
            await asyncio.sleep(0)
        return findings

    async def _second_look(self, chain: Chain, register: str) -> str | None:
        """With the deliveries alone that this deployment stored: the others are reported for themselves."""
        one = Statement(f"SELECT {REGISTER_COLUMNS} FROM stripe_registers WHERE register = :name", {"name": register})  # noqa: S608
        all_of_it = f"SELECT {DELIVERY_COLUMNS} FROM stripe_deliveries WHERE register = :name AND difference <> 0"  # noqa: S608
        before = await self._database.fetch_as(chain, one)
        ours = await self._check.ours(await self._database.fetch_as(chain, Statement(all_of_it, {"name": register})))
        now = await self._database.fetch_as(chain, one)
        if not now or [dict(row) for row in before] != [dict(row) for row in now]:
            return None  # it changed meanwhile: the next audit looks again
        return await self._check.register_problem(now[0], sum(each.difference for each in ours))

    async def adopt(self) -> None:
        """See ``TrustedRows.adopt``."""
        sql = (
            "UPDATE stripe_registers SET mac = :mac, base = :base WHERE org_id = :org_id "
            "AND environment = :environment AND register = :register AND version = :version AND booked = :booked"
        )
        async for rows in self._pages(_PAGE_OF_REGISTERS, "register", None):
            statements: list[Statement] = []
            for row in rows:
                if not self._matches(sealed_register(row), row):
                    values = {name: row[name] for name in ("org_id", "environment", "register", "version", "booked")}
                    values["base"] = cast("int", row["booked"]) - cast("int", row["added"])
                    values["mac"] = await self._macs.make(sealed_register(values))
                    statements.append(Statement(sql, values))
            if statements:
                await self._database.transaction(statements)
