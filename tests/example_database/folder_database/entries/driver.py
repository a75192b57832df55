"""The entry store driver ``folder``. No SQL, no server, no transaction: one thread owns the files of all chains.

What it costs: a file and two flushes for each append, and the first look at a chain reads it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from folder_database.entries.auditor import FolderAuditor
from folder_database.entries.chain_files import ChainFiles, chains_in
from folder_database.files import make_folder, writing_alone
from folder_database.one_thread import OneThread
from precipiq_chain.chain_format import parse_statement
from precipiq_chain.grouping import AppendJob, Group, seal_job, wanted_keys
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_chain.matching import meets, page_of
from precipiq_chain.watchers import Watchers
from precipiq_contracts.chain import Chain, Entry, Head, PreparedDraft
from precipiq_contracts.entry_store import (
    MULTI_WRITER,
    PHYSICAL_ERASURE,
    Appended,
    EntryAuditor,
    EntryPage,
    EntryQuery,
    EntryStore,
    Seal,
)

WAITING_MAX = 10_000


class FolderDriver:
    """See ``EntryStoreDriver``."""

    name: str = "folder"
    capabilities: frozenset[str] = frozenset((MULTI_WRITER, PHYSICAL_ERASURE))

    def __init__(self, folder: Path, options: DriverOptions, *, lock_timeout_s: float = 10.0) -> None:
        self._folder = folder
        self._options = options
        self._lock_timeout_s = lock_timeout_s

    def open(self) -> AbstractAsyncContextManager[EntryStore]:
        """See ``EntryStoreDriver.open``."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        thread = OneThread("folder-entries", WAITING_MAX)
        async with thread.running():
            store = FolderEntryStore(self._folder, self._options, self._lock_timeout_s, thread)
            await store.ping()
            yield store


class FolderEntryStore:
    """See ``precipiq_contracts.entry_store.EntryStore``. Methods that end in ``_now`` run in the thread."""

    def __init__(self, folder: Path, options: DriverOptions, lock_timeout_s: float, thread: OneThread) -> None:
        self._folder = folder
        self._options = options
        self._lock_timeout_s = lock_timeout_s
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._chains: dict[Chain, ChainFiles] = {}
        self._watchers = Watchers(options.watch_poll_s)

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        """See ``EntryStore.append``."""
        return await self._thread.run(partial(self._append_now, AppendJob(chain, tuple(drafts), seal)))

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        """See ``EntryStore.redact``."""
        job = AppendJob(chain, (draft,), seal, erased_seq=target.seq)
        return (await self._thread.run(partial(self._append_now, job))).entries[0]

    async def head(self, chain: Chain) -> Head | None:
        """See ``EntryStore.head``."""
        return await self._thread.run(lambda: self._files_now(chain).head)

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        """See ``EntryStore.read``."""
        return await self._thread.run(partial(self._read_now, chain, max(after_seq, 0), limit, kind))

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        """See ``EntryStore.get``."""
        return await self._thread.run(partial(self._get_now, chain, entry_id))

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """See ``EntryStore.find``."""
        return await self._thread.run(partial(self._find_now, chain, query, before_seq, limit))

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        """See ``EntryStore.redaction_ids``."""
        return await self._thread.run(partial(self._redaction_ids_now, chain, frozenset(target_seqs)))

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See ``EntryStore.watch``. Wakes now and then by itself too: another process may have appended."""
        return self._watchers.watch(chain)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``EntryStore.chains``."""
        for chain in await self._thread.run(partial(chains_in, self._folder)):
            if await self.head(chain) is not None:
                yield chain

    def auditor(self) -> EntryAuditor:
        """See ``EntryStore.auditor``."""
        return FolderAuditor(self._folder)

    async def ping(self) -> None:
        """See ``EntryStore.ping``. Takes the lock: what cannot be locked cannot be written either."""
        await self._thread.run(self._ping_now)

    def _ping_now(self) -> None:
        make_folder(self._folder)
        with writing_alone(self._folder, self._lock_timeout_s):
            pass

    def _files_now(self, chain: Chain) -> ChainFiles:
        files = self._chains.get(chain) or ChainFiles(self._folder, chain)
        if files.refresh().head is not None:
            self._chains[chain] = files
        return files

    def _append_now(self, job: AppendJob) -> Appended:
        with writing_alone(self._folder, self._lock_timeout_s):
            files = self._files_now(job.chain)
            known = [place for place in wanted_keys([job]) if place[1] in files.seq_of_key]
            stored = files.entries(files.seq_of_key[key] for _, key in known)
            heads = {} if files.head is None else {job.chain: files.head}
            group = Group(heads, dict(zip(known, stored, strict=True)))
            appended = seal_job(group, job)
            if isinstance(appended, Exception):
                raise appended
            if job.drafts:
                files.append(group.new)
                self._loop.call_soon_threadsafe(self._watchers.wake, job.chain)
            if job.erased_seq is not None:
                files.erase(job.erased_seq)
            return appended

    def _read_now(self, chain: Chain, after_seq: int, limit: int, kind: str | None) -> list[Entry]:
        files = self._files_now(chain)
        later = range(after_seq + 1, len(files.kinds) + 1)
        return list(files.entries(islice((seq for seq in later if kind in (None, files.kinds[seq - 1])), limit)))

    def _get_now(self, chain: Chain, entry_id: str) -> Entry | None:
        files = self._files_now(chain)
        seq = files.seq_of_id.get(entry_id)
        return None if seq is None else next(files.entries([seq]))

    def _find_now(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        files = self._files_now(chain)
        last_seq = len(files.kinds) if before_seq is None else min(before_seq - 1, len(files.kinds))
        first_seq = max(last_seq - self._options.find_scan_rows_max + 1, 1)
        candidates = (seq for seq in range(last_seq, first_seq - 1, -1) if files.kinds[seq - 1] == query.kind)
        matching = (entry for entry in files.entries(candidates) if meets(query, entry))
        return page_of(list(islice(matching, limit)), limit, first_seq)

    def _redaction_ids_now(self, chain: Chain, target_seqs: frozenset[int]) -> dict[int, str]:
        files = self._files_now(chain)
        redactions = files.entries(seq for seq, kind in enumerate(files.kinds, start=1) if kind == "redaction")
        found = (parse_statement(entry.statement) for entry in redactions)
        return {
            seq: statement.id
            for statement in found
            if isinstance(seq := statement.body.get("target_seq"), int) and seq in target_seqs
        }
