"""Rows that grant something: adopted once, then compared with what their chains say. The plugins know their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.database import Database, Statement
from precipiq_contracts.errors import PrecipiqError, Unavailable
from precipiq_contracts.ledger import ChainBreak, ChainVerdict
from precipiq_ledger.adoption_marks import AdoptionMarks
from precipiq_ledger.grading import grade
from precipiq_macs.row_macs import RowFinding, TrustedRows

log = structlog.get_logger("precipiq.ledger")

NO_ENTRY = 0
"""As the seq of a ``ChainBreak``: the fault is in a row beside the chain, not in an entry."""

_POST = Statement("SELECT 1 AS found FROM ledger_marks WHERE name = 'rows_have_macs'")  # a post revision sets it


class RowTrust:
    """The tables of all plugins that grant something. ``database`` None: there are none.

    ``tables`` is complete once the hooks were called.
    """

    def __init__(self, database: Database | None, marks: AdoptionMarks) -> None:
        self.tables: Sequence[TrustedRows] = ()
        self._database = database
        self._marks = marks
        self._is_settled = database is None
        self._has_warned = False

    async def is_settled(self) -> bool:
        """Whether no row may lack its MAC any more. Raises ``Unavailable``."""
        self._is_settled = self._is_settled or await self._marks.are_there()
        return self._is_settled

    async def settle(self) -> None:
        """Adopt the rows from before the MACs, once in an installation's life. Raises ``Unavailable``."""
        if self._is_settled or self._database is None:
            return
        if not await self._marks.are_there():
            if not await self._database.fetch(_POST):
                if not self._has_warned:
                    log.warning("rows without a MAC pass until `precipiq migrate --post` ends the upgrade")
                self._has_warned = True
                return
            for table in self.tables:
                await table.adopt()
        await self._marks.complete()
        self._is_settled = True

    async def chains(self) -> set[Chain]:
        """The chains that have such rows. Raises ``Unavailable``."""
        return {chain for table in self.tables async for chain in table.chains()}

    async def audit(self, chain: Chain) -> tuple[RowFinding, ...]:
        """The rows that stand for something the chain does not say, of all tables.

        Raises the first error where no table that can be compared has a finding.
        """
        findings: list[RowFinding] = []
        failure: Exception | None = None
        for table in self.tables:
            try:
                findings += await table.audit(chain)
            except Exception as error:
                failure = failure or error
                log.exception("rows cannot be compared with their chain", table=table.name, org_id=chain.org_id,
                              environment=chain.environment)  # fmt: skip
        if failure is not None and not findings:
            raise failure
        return tuple(findings)

    async def judged(self, chain: Chain, verdict: ChainVerdict) -> ChainVerdict:
        """The verdict on a chain and its rows; of a broken chain they are not compared. Raises ``Unavailable``."""
        if verdict.broken is not None:
            unchecked = (*verdict.unchecked, "the rows that grant something: what the chain says does not hold")
            return replace(verdict, unchecked=unchecked) if self.tables else verdict
        try:
            return judge(verdict, await self.audit(chain))
        except PrecipiqError:
            raise
        except Exception as error:  # of a table that a plugin, or somebody else, damaged
            raise Unavailable("the rows that grant something cannot be compared; see the server's log") from error


def judge(verdict: ChainVerdict, findings: Sequence[RowFinding]) -> ChainVerdict:
    """The verdict on a chain and its rows: a chain that holds does not vouch for rows that it does not announce."""
    if not findings:
        return verdict
    breaks = tuple(ChainBreak(NO_ENTRY, each.code, f"{each.row}: {each.reason}") for each in findings)
    broken = verdict.broken or breaks[0]
    ordered = (*breaks, *verdict.findings) if verdict.broken is None else (*verdict.findings, *breaks)
    return replace(verdict, verdict=grade(ordered, None), broken=broken, findings=ordered)
