"""An entry store in memory, complete and for tests alone: nothing survives the process, so it is never shipped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import ClassVar

from anyio.lowlevel import checkpoint

from precipiq_chain.chain_format import Statement, head_of, parse_statement
from precipiq_chain.grouping import answer, new_drafts
from precipiq_chain.matching import meets, page_of
from precipiq_chain.watchers import Watchers
from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import (
    Appended,
    AuditBatch,
    EntryAuditor,
    EntryPage,
    EntryQuery,
    EntryStore,
    Seal,
)
from precipiq_testkit.sealing import REDACTION


@dataclass(frozen=True, slots=True)
class MemoryData:
    """The shared state of a driver's stores: the entries of each chain by seq, and its watchers."""

    entries: dict[Chain, list[Entry]] = field(default_factory=dict)
    watchers: Watchers = field(default_factory=Watchers)

    def of(self, chain: Chain) -> Sequence[Entry]:
        return self.entries.get(chain, ())


class MemoryEntryStore:
    """See ``precipiq_contracts.entry_store.EntryStore``. One event loop; an append holds it from start to end."""

    find_scan_max: ClassVar[int] = 25
    """Entries that one call of ``find`` looks at: small, so that callers meet pages that are not full."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        await checkpoint()
        appended = self._append_now(chain, drafts, seal)
        self._wake(chain)
        return appended

    def _append_now(
        self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal, known: dict[str, Entry] | None = None
    ) -> Appended:
        known = self._known(chain) if known is None else known
        new = self._new_drafts(known, drafts)
        return answer(drafts, self._store_sealed(chain, new, seal), known)

    def _known(self, chain: Chain) -> dict[str, Entry]:
        return {entry.idempotency_key: entry for entry in self._data.of(chain) if entry.idempotency_key is not None}

    def _new_drafts(self, known: dict[str, Entry], drafts: Sequence[PreparedDraft]) -> list[PreparedDraft]:
        return new_drafts(drafts, known)

    def _store_sealed(self, chain: Chain, new: Sequence[PreparedDraft], seal: Seal) -> Sequence[Entry]:
        if not new:
            return ()
        sealed = seal(self._head_now(chain), new)
        self._data.entries.setdefault(chain, []).extend(sealed)
        return sealed

    def _head_now(self, chain: Chain) -> Head | None:
        entries = self._data.of(chain)
        return head_of(entries[-1]) if entries else None

    def _wake(self, chain: Chain) -> None:
        self._data.watchers.wake(chain)

    async def head(self, chain: Chain) -> Head | None:
        await checkpoint()
        return self._head_now(chain)

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        await checkpoint()
        later = self._data.of(chain)[max(after_seq, 0) :]
        return [entry for entry in later if kind is None or parse_statement(entry.statement).kind == kind][:limit]

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        await checkpoint()
        return next((entry for entry in self._data.of(chain) if parse_statement(entry.statement).id == entry_id), None)

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        await checkpoint()
        entries = self._data.of(chain)
        last_seq = len(entries) if before_seq is None else min(before_seq - 1, len(entries))
        first_seq = max(last_seq - self.find_scan_max, 0) + 1
        candidates = (entries[seq - 1] for seq in range(last_seq, first_seq - 1, -1))
        found = islice((entry for entry in candidates if self._matches(query, entry)), limit)
        return page_of(list(found), limit, first_seq)

    def _matches(self, query: EntryQuery, entry: Entry) -> bool:
        return meets(query, entry)

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        await checkpoint()
        redaction = self._append_now(chain, [draft], seal).entries[0]
        self._drop_payload(chain, target.seq)
        self._wake(chain)
        return redaction

    def _drop_payload(self, chain: Chain, seq: int) -> None:
        entries = self._data.entries[chain]
        entries[seq - 1] = replace(entries[seq - 1], payload=None)

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        await checkpoint()
        return {
            seq: statement.id
            for statement in map(parse_statement, (entry.statement for entry in self._data.of(chain)))
            if statement.kind == REDACTION
            and isinstance(seq := statement.body.get("target_seq"), int)
            and seq in target_seqs
        }

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        return self._data.watchers.watch(chain)

    async def chains(self) -> AsyncIterator[Chain]:
        for chain in list(self._data.entries):
            await checkpoint()
            yield chain

    def auditor(self) -> EntryAuditor:
        return MemoryAuditor(self._data.entries)

    async def ping(self) -> None:
        await checkpoint()


@dataclass(frozen=True, slots=True)
class MemoryAuditor:
    """See ``EntryAuditor``. Reads the live entries; pickling takes a copy of them along."""

    entries: dict[Chain, list[Entry]]

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        rows = self.entries.get(chain, [])[after_seq:through_seq]
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size])

    def batch(self, rows: Sequence[Entry]) -> AuditBatch:
        return AuditBatch(
            seqs=[row.seq for row in rows],
            hashes=[row.hash for row in rows],
            statements=[row.statement for row in rows],
            payloads=[row.payload for row in rows],
            macs=[row.mac for row in rows],
        )

    def last_seq(self, chain: Chain) -> int:
        return max((row.seq for row in self.entries.get(chain, ())), default=0)

    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        hashes = {row.seq: row.hash for row in self.entries.get(chain, ())}
        return [hashes.get(seq) for seq in seqs]

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        return [
            (row.statement, row.mac)
            for row in self.entries.get(chain, ())
            if (statement := parse_statement(row.statement)).kind == REDACTION
            and statement.body.get("target_seq") in target_seqs
        ]

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        for filed, rows in self.entries.items():
            for row in rows:
                if filed != chain and _chain_of(parse_statement(row.statement)) == chain:
                    return row.seq, f"{filed.org_id}/{filed.environment}"
        return None


def _chain_of(statement: Statement) -> Chain:
    return Chain(statement.org_id, statement.environment)


class MemoryDriver:
    """See ``EntryStoreDriver``. Stores opened from one driver, at once or one after another, share their entries."""

    name: str = "memory"
    capabilities: frozenset[str] = frozenset()

    def __init__(self, store_type: type[MemoryEntryStore] = MemoryEntryStore) -> None:
        self._store_type = store_type
        self._data = MemoryData()

    def open(self) -> AbstractAsyncContextManager[EntryStore]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        yield self._store_type(self._data)
