"""The entry store driver ``jsonl``: every chain a file of JSON lines. No SQL, no server, no transaction.

One thread owns the files: every method is a job for it, so there is nothing to lock within a process; between processes
a lock file keeps writers apart. What it costs: an append waits for its own fsync (there is no group commit), an erasure
copies the file, and the first look at a chain reads its file once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from acme_plugin.auditor import JsonlAuditor
from acme_plugin.entry_file import EntryFile, chains_in, file_of, writing_alone
from precipiq_chain.grouping import answer, new_drafts
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
from precipiq_contracts.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JsonlLimits:
    """What bounds the driver: entries of a chain (each costs some 300 bytes of memory), entries that one page of a
    search looks at, calls that wait for the disk, seconds for another process to finish, and between looks for what
    other processes appended."""

    entries_max: int = 1_000_000
    find_scan_entries_max: int = 5_000
    waiting_max: int = 1_000
    lock_timeout_s: float = 10.0
    watch_poll_s: float = 1.0


class JsonlDriver:
    """See ``EntryStoreDriver``. Whatever it needs is opened with the store: no hook has run its lifespan by then."""

    name: str = "jsonl"
    capabilities: frozenset[str] = frozenset((MULTI_WRITER, PHYSICAL_ERASURE))

    def __init__(self, folder: Path, limits: JsonlLimits | None = None) -> None:
        self._folder = folder
        self._limits = limits or JsonlLimits()

    def open(self) -> AbstractAsyncContextManager[EntryStore]:
        """See ``EntryStoreDriver.open``."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        thread = ThreadPoolExecutor(1, "acme-jsonl")
        try:
            store = JsonlEntryStore(self._folder, self._limits, thread)
            await store.prepare()
            yield store
        finally:
            thread.shutdown(cancel_futures=True)


class JsonlEntryStore:
    """See ``precipiq_contracts.entry_store.EntryStore``. Methods that end in ``_now`` run in the thread."""

    def __init__(self, folder: Path, limits: JsonlLimits, thread: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._limits = limits
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._waiting_count = 0
        self._files: dict[Chain, EntryFile] = {}
        self._watchers = Watchers(limits.watch_poll_s)

    async def prepare(self) -> None:
        """Make the folder, and finish what a crash left behind. Raises ``Unavailable``."""
        await self._run(self._prepare_now)

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        """See ``EntryStore.append``."""
        return await self._run(partial(self._append_now, chain, tuple(drafts), seal))

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        """See ``EntryStore.redact``. The blocks that held the payload are free then, not overwritten."""
        appended = await self._run(partial(self._append_now, chain, (draft,), seal, erase_seq=target.seq))
        return appended.entries[0]

    async def head(self, chain: Chain) -> Head | None:
        """See ``EntryStore.head``."""
        return await self._run(lambda: self._file_now(chain).head)

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        """See ``EntryStore.read``."""
        return await self._run(partial(self._read_now, chain, max(after_seq, 0), limit, kind))

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        """See ``EntryStore.get``."""
        return await self._run(partial(self._get_now, chain, entry_id))

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """See ``EntryStore.find``. One call looks at ``find_scan_entries_max`` entries at most."""
        return await self._run(partial(self._find_now, chain, query, before_seq, limit))

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        """See ``EntryStore.redaction_ids``."""
        known = await self._run(lambda: self._file_now(chain).redaction_ids)
        return {seq: known[seq] for seq in target_seqs if seq in known}

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See ``EntryStore.watch``. Wakes every ``watch_poll_s`` too: another process may have appended."""
        return self._watchers.watch(chain)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``EntryStore.chains``."""
        for chain in await self._run(partial(chains_in, self._folder)):
            if await self.head(chain) is not None:
                yield chain

    def auditor(self) -> EntryAuditor:
        """See ``EntryStore.auditor``."""
        return JsonlAuditor(self._folder)

    async def ping(self) -> None:
        """See ``EntryStore.ping``."""
        await self._run(self._ping_now)

    async def _run(self, work: Callable[[], T]) -> T:
        """A caller that is cancelled takes back a job that has not begun; one that has begun ends as it would."""
        if self._waiting_count >= self._limits.waiting_max:
            raise Unavailable("too many calls wait for the disk; nothing was changed")
        self._waiting_count += 1
        try:
            return await self._loop.run_in_executor(self._thread, work)
        except OSError as error:
            raise Unavailable(f"the folder of entries: {error.strerror}; nothing was changed") from error
        finally:
            self._waiting_count -= 1

    def _prepare_now(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with writing_alone(self._folder, self._limits.lock_timeout_s):
            for path in self._folder.glob("*.erasing"):
                path.unlink()

    def _ping_now(self) -> None:
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise Unavailable("the folder of entries cannot be written")

    def _file_now(self, chain: Chain) -> EntryFile:
        file = self._files.get(chain) or EntryFile(file_of(self._folder, chain), chain)
        if file.refresh().head is not None:
            self._files[chain] = file
        return file

    def _append_now(
        self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal, *, erase_seq: int | None = None
    ) -> Appended:
        with writing_alone(self._folder, self._limits.lock_timeout_s):
            file = self._file_now(chain)
            known = _known(file, drafts)
            new = new_drafts(drafts, known)
            if len(file.kinds) + len(new) > self._limits.entries_max:
                raise Unavailable(f"the chain is full: a file holds {self._limits.entries_max} entries")
            sealed = seal(file.head, new) if new else ()
            if drafts:  # known ones too: who wrote them may have died before they were on disk
                file.append(sealed)
                self._loop.call_soon_threadsafe(self._watchers.wake, chain)
            if erase_seq is not None:
                file.erase(erase_seq)
            return answer(drafts, sealed, known)

    def _read_now(self, chain: Chain, after_seq: int, limit: int, kind: str | None) -> list[Entry]:
        file = self._file_now(chain)
        later = range(after_seq + 1, len(file.kinds) + 1)
        wanted = (seq for seq in later if kind is None or file.kinds[seq - 1] == kind)
        return list(file.entries(islice(wanted, limit))) if later else []

    def _get_now(self, chain: Chain, entry_id: str) -> Entry | None:
        file = self._file_now(chain)
        seq = file.seq_of_id.get(entry_id)
        return None if seq is None else next(file.entries([seq]))

    def _find_now(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        file = self._file_now(chain)
        last_seq = len(file.kinds) if before_seq is None else min(before_seq - 1, len(file.kinds))
        first_seq = max(last_seq - self._limits.find_scan_entries_max + 1, 1)
        if last_seq < first_seq:
            return EntryPage((), None)
        candidates = (seq for seq in range(last_seq, first_seq - 1, -1) if file.kinds[seq - 1] == query.kind)
        found = islice((entry for entry in file.entries(candidates) if meets(query, entry)), limit)
        return page_of(list(found), limit, first_seq)


def _known(file: EntryFile, drafts: Sequence[PreparedDraft]) -> dict[str, Entry]:
    """The stored entries of the drafts' keys."""
    keys = [key for draft in drafts if (key := draft.idempotency_key) is not None and key in file.seq_of_key]
    return {key: next(file.entries([file.seq_of_key[key]])) for key in keys}
