"""How many bytes each chain stores, and the quota: kept as chains grow, never scanned for while a request waits.

Statements and payloads count. Each process adds what it appended every few seconds, so that a quota may be exceeded by
what all processes append in that time. A chain from before this count is counted once, when its number is asked for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import SYSTEM, Chain, Entry, PreparedDraft
from precipiq_contracts.database import Database, Row, Statement
from precipiq_contracts.entry_store import EntryReader
from precipiq_contracts.plans import Plans
from precipiq_core.chain_columns import chain_values
from precipiq_ledger.errors import QuotaExceeded

ROUND_S = 5.0
STATEMENT_OVERHEAD_BYTES = 600
"""More than a statement has beside its body."""
_CHAINS_MAX = 100_000
_AT_ONCE = 500
_PAGE_ENTRIES = 200
_PAUSE_S = 0.01

_CHAIN = "org_id = :org_id AND environment = :environment"
_ADD = f"UPDATE ledger_usage SET bytes = bytes + :bytes WHERE {_CHAIN} RETURNING bytes"  # noqa: S608
_BEGIN = """
INSERT INTO ledger_usage (org_id, environment, bytes) VALUES (:org_id, :environment, 0)
ON CONFLICT (org_id, environment) DO NOTHING
"""
_COUNTED = """
INSERT INTO ledger_usage (org_id, environment, bytes) VALUES (:org_id, :environment, :bytes)
ON CONFLICT (org_id, environment) DO NOTHING RETURNING bytes
"""
_READ = f"SELECT bytes FROM ledger_usage WHERE {_CHAIN}"  # noqa: S608


class StoredBytes:
    """``bytes_max``: the deployment's quota of each chain, None: none. ``plans``: those of organisations come first."""

    def __init__(self, database: Database | None, bytes_max: int | None) -> None:
        self._database = database
        self._bytes_max = bytes_max
        self.plans: Plans | None = None
        self._known: dict[Chain, int | None] = {}
        self._pending: defaultdict[Chain, int] = defaultdict(int)
        self._begun: set[Chain] = set()
        self._wanted: set[Chain] = set()
        self._counting: dict[Chain, list[tuple[int, int]]] = {}
        self._news = asyncio.Event()

    def limit_of(self, chain: Chain) -> int | None:
        """The chain's quota in bytes; None: it has none."""
        planned = None if self.plans is None else self.plans.limits_of(chain.org_id).stored_bytes_max
        return self._bytes_max if planned is None else planned

    async def load(self, chain: Chain) -> int | None:
        """How many bytes the chain stores, as far as this process knows; None: not counted yet, but soon."""
        if self._database is None:
            return None
        if chain not in self._known:
            rows = await self._database.fetch(Statement(_READ, dict(chain_values(chain))))
            if len(self._known) >= _CHAINS_MAX:
                self._known.clear()
            self._known[chain] = _bytes_in(rows[0]) if rows else None
        known = self._known[chain]
        is_under_way = chain in self._begun or chain in self._counting
        if known is None and not is_under_way and len(self._wanted) < _CHAINS_MAX:
            self._wanted.add(chain)
            self._news.set()
        return None if known is None else known + self._pending.get(chain, 0)

    def refuse_beyond(self, chain: Chain, drafts: Iterable[PreparedDraft]) -> None:
        """Raise ``QuotaExceeded`` where what a tenant asks to be stored is too much; call :meth:`load` before.

        Entries without a payload, and the server's own, are never refused: what happened to keys must go on record.
        """
        limit, known = self.limit_of(chain), self._known.get(chain)
        if limit is None or known is None:
            return
        asked = [draft for draft in drafts if draft.payload is not None and draft.draft.actor != SYSTEM]
        size = sum(len(draft.body) + len(draft.payload or b"") + STATEMENT_OVERHEAD_BYTES for draft in asked)
        if asked and known + self._pending.get(chain, 0) + size > limit:
            raise QuotaExceeded(f"the stored bytes of this environment have reached their limit, {limit}")

    def note(
        self, chain: Chain, entries: Sequence[Entry], created: Sequence[bool], erased: Entry | None = None
    ) -> None:
        """Count entries that were appended, and the payload that was erased meanwhile."""
        if self._database is None or len(self._pending) >= _CHAINS_MAX:
            return
        size = _size(entry for entry, is_new in zip(entries, created, strict=True) if is_new)
        size -= len(erased.payload or b"") if erased is not None else 0
        if chain in self._counting:
            self._counting[chain].append((entries[0].seq, size))
            return
        self._pending[chain] += size
        if entries[0].seq == 1 and created[0]:
            self._begun.add(chain)

    def run(self, background: Background, reader: EntryReader) -> AbstractAsyncContextManager[None]:
        """Keep the count while the context is entered."""

        async def keep() -> None:
            await self.flush()
            while self._wanted:
                await self._count(reader, self._wanted.pop())

        return background(
            "ledger.usage",
            keep,
            every_s=ROUND_S,
            failing="the bytes that chains store are not counted",
            wake=self._news,
            round_s_max=LONG_ROUND_S_MAX,
            final=self.flush,
        )

    async def flush(self) -> None:
        """Add what this process appended to the stored counts. Raises ``Unavailable``."""
        if self._database is None:
            return
        for chains in _groups(list(self._pending), _AT_ONCE):
            added = {chain: self._pending[chain] for chain in chains}
            begun = [chain for chain in chains if chain in self._begun]
            statements = [Statement(_BEGIN, dict(chain_values(chain))) for chain in begun]
            statements += [Statement(_ADD, {**chain_values(chain), "bytes": size}) for chain, size in added.items()]
            results = (await self._database.transaction(statements))[len(begun) :]
            self._begun.difference_update(begun)
            for (chain, size), rows in zip(added.items(), results, strict=True):
                if rows:
                    self._known[chain] = _bytes_in(rows[0])
                    self._pending[chain] -= size
                if not rows or self._pending[chain] == 0:
                    del self._pending[chain]  # of a chain that is counted whole when somebody asks

    async def _count(self, reader: EntryReader, chain: Chain) -> None:
        """Count a chain from before: page by page, so that nobody waits for it."""
        assert self._database is not None
        before = self._pending.pop(chain, 0)
        since = self._counting[chain] = []
        try:
            head = await reader.head(chain)
            last, size, seq = 0 if head is None else head.seq, 0, 0
            while seq < last and (page := await reader.read(chain, seq, min(_PAGE_ENTRIES, last - seq))):
                size, seq = size + _size(page), page[-1].seq
                await asyncio.sleep(_PAUSE_S)
            noted_count = len(since)
            size += sum(added for first_seq, added in since if first_seq > last)
            [stored] = await self._database.transaction([Statement(_COUNTED, {**chain_values(chain), "bytes": size})])
            if stored:  # else another process was faster: what this one appended is added to its count
                del since[:noted_count]
                before = 0
        finally:
            del self._counting[chain]
            self._pending[chain] += before + sum(added for _, added in since)
            self._known.pop(chain, None)


def _size(entries: Iterable[Entry]) -> int:
    return sum(len(entry.statement) + len(entry.payload or b"") for entry in entries)


def _groups(chains: Sequence[Chain], size: int) -> Iterable[Sequence[Chain]]:
    return (chains[start : start + size] for start in range(0, len(chains), size))


def _bytes_in(row: Row) -> int:
    found = row["bytes"]
    return found if isinstance(found, int) else 0
