"""The ledger's chains as its store holds them, for other plugins."""

from __future__ import annotations

from collections.abc import Mapping

from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_contracts.ledger import ChainBreak, ChainVerdict
from precipiq_ledger.grading import grade_record
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.service import LedgerService
from precipiq_ledger.verifier import Progress, Verifier


class StoredChains:
    """The capability ``ChainAudit``: the ledger's chains as its store holds them."""

    def __init__(self, service: LedgerService, verifier: Verifier, integrity: Integrity) -> None:
        self._service = service
        self._verifier = verifier
        self._integrity = integrity

    def auditor(self) -> EntryAuditor:
        """See ``ChainAudit.auditor``."""
        return self._service.store.auditor()

    def known_break(self, chain: Chain) -> ChainBreak | None:
        """See ``ChainAudit.known_break``."""
        return self._integrity.broken(chain)

    def describe(self, verdict: ChainVerdict, at_us: int) -> Mapping[str, object]:
        """See ``ChainAudit.describe``."""
        return grade_record(verdict, at_us)

    async def verify(
        self,
        chain: Chain,
        from_seq: int = 1,
        through_seq: int | None = None,
        progress: Progress = lambda _: None,
    ) -> ChainVerdict:
        """See ``ChainAudit.verify``."""
        return await self._verifier.verify(self.auditor(), chain, from_seq, through_seq, progress)
