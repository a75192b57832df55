"""The SQLite driver: entries in the database's file, appended through its one writer, read as the tenant."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import orjson

from precipiq_chain.grouping import AppendJob, check_storable
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_chain.watchers import Watchers
from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain, Entry, Environment, Head, PreparedDraft
from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.database import Migration
from precipiq_contracts.entry_store import (
    PHYSICAL_ERASURE,
    Appended,
    EntryAuditor,
    EntryPage,
    EntryQuery,
    EntryStore,
    Seal,
)
from precipiq_core.background import standalone_background
from precipiq_sqlite.entries.append import append_group
from precipiq_sqlite.entries.audit import SqliteAuditor
from precipiq_sqlite.entries.erasure import LogEmptier
from precipiq_sqlite.entries.find import ENTRIES_PACKED, ENTRY_COLUMNS, find_page, unpack_entries
from precipiq_sqlite.entries.statements import read_statements
from precipiq_sqlite.entries.watch import SqliteWatchers
from precipiq_sqlite.service import SqliteDatabase

_TABLE = "entries"
MIGRATIONS = Path(__file__).parents[1] / "sql" / "migrations"
_CHAINS_AT_ONCE = 100

_HEAD = "SELECT seq, hash, substr(statement, -35, 27) FROM entries ORDER BY seq DESC LIMIT 1"
_ENTRIES = f"SELECT {ENTRY_COLUMNS} FROM entries"  # noqa: S608
_GET = f"{_ENTRIES} WHERE id = :id LIMIT 1"
_READ = f"{_ENTRIES} WHERE seq > :after ORDER BY seq LIMIT :limit"
_READ_DECISIONS = f"{_ENTRIES} WHERE seq > :after AND kind = :kind ORDER BY seq LIMIT :limit"
_READ_OTHER_KIND = f"{_ENTRIES} WHERE seq > :after AND kind = :kind AND kind <> 'decision' ORDER BY seq LIMIT :limit"
"""The index of kinds is partial: the condition it was made with must stand in the query."""
_REDACTION_IDS = """
SELECT redacts_seq, id FROM entries
WHERE kind = 'redaction' AND redacts_seq IN (SELECT value FROM json_each(?)) AND seq > redacts_seq
"""
_HEAD_OF = """
SELECT seq, hash, substr(statement, -35, 27) FROM entries
WHERE org_id = ? AND environment = ? ORDER BY seq DESC LIMIT 1
"""
_NEXT_CHAIN = """
SELECT CAST(org_id AS BLOB), environment FROM entries
WHERE (org_id, environment) > (CAST(? AS TEXT), ?) AND org_id < x'' AND environment IN ('live', 'test')
ORDER BY org_id, environment LIMIT 1
"""
"""Whatever an intruder filed under no text, or under bytes that are none, keeps no chain from being named."""


class SqliteDriver:
    """See ``EntryStoreDriver``. The database must be open before, and as long as, the store is.

    ``background`` runs the watchers; without it, no metric and no readiness check covers them.
    """

    name: str = "sqlite"
    capabilities: frozenset[str] = frozenset((PHYSICAL_ERASURE,))
    migrations: Sequence[Migration] = (
        Migration("ledger", MIGRATIONS, {_TABLE: ("org_id", "environment")}, frozenset({_TABLE})),
    )

    def __init__(
        self,
        database: SqliteDatabase,
        options: DriverOptions | None = None,
        background: Background | None = None,
    ) -> None:
        self._database = database
        self._background = background or standalone_background()
        self._options = options or DriverOptions()
        database.reserve(_TABLE)

    def open(self) -> AbstractAsyncContextManager[EntryStore]:
        """See ``EntryStoreDriver.open``."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        watchers = SqliteWatchers(self._database.readers, self._options.watch_poll_s)
        emptier = LogEmptier(self._database.writer.checkpoint)
        async with watchers.run(self._background), emptier.run(self._background):
            yield SqliteEntryStore(self._database, self._options, watchers, emptier)


class SqliteEntryStore:
    """See ``precipiq_contracts.entry_store.EntryStore``."""

    def __init__(
        self, database: SqliteDatabase, options: DriverOptions, watchers: Watchers, emptier: LogEmptier
    ) -> None:
        self._database = database
        self._options = options
        self._watchers = watchers
        self._emptier = emptier

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        """See ``EntryStore.append``. Concurrent appends, to any chains, share one transaction."""
        check_storable(chain, drafts)
        return await self._append(AppendJob(chain, tuple(drafts), seal))

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        """See ``EntryStore.redact``. Redaction entry and erasure are one transaction; then the log is emptied, so
        that the erased bytes are in no file."""
        check_storable(chain, [draft])
        appended = await self._append(AppendJob(chain, (draft,), seal, target.seq))
        await self._emptier.empty(target.seq)
        return appended.entries[0]

    async def _append(self, job: AppendJob) -> Appended:
        future = self._database.writer.submit(append_group, job, max(len(job.drafts), 1), job.chain)
        future.add_done_callback(partial(self._wake_watchers, job.chain))
        # Shielded, because watchers are to wake also when the caller is cancelled meanwhile.
        return await asyncio.shield(future)

    def _wake_watchers(self, chain: Chain, future: asyncio.Future[Appended]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._watchers.wake(chain)

    async def head(self, chain: Chain) -> Head | None:
        """See ``EntryStore.head``."""

        def work(connection: sqlite3.Connection) -> Head | None:
            return _head_in(connection.execute(_HEAD).fetchone())

        return await self._database.readers.run_as(chain, work)

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        """See ``EntryStore.read``."""
        sql = _READ if kind is None else _READ_DECISIONS if kind == "decision" else _READ_OTHER_KIND
        return await self._select(chain, sql, {"after": after_seq, "limit": limit, "kind": kind})

    async def statements(
        self, chain: Chain, after_seq: int, limit: int, bytes_max: int
    ) -> tuple[Sequence[bytes], int] | None:
        """See ``StatementReader``."""
        work = partial(read_statements, after_seq=after_seq, limit=limit, bytes_max=bytes_max)
        return await self._database.readers.run_as(chain, work)

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        """See ``EntryStore.get``."""
        entries = await self._select(chain, _GET, {"id": entry_id})
        return entries[0] if entries else None

    async def _select(self, chain: Chain, sql: str, parameters: dict[str, str | int | None]) -> list[Entry]:
        def work(connection: sqlite3.Connection) -> list[Entry]:
            packed = connection.execute(f"{ENTRIES_PACKED} ({sql})", parameters).fetchone()[0]
            return sorted(unpack_entries(chain, packed), key=lambda entry: entry.seq)

        return await self._database.readers.run_as(chain, work)

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """See ``EntryStore.find``."""
        work = partial(
            find_page,
            chain=chain,
            query=query,
            before_seq=before_seq,
            limit=limit,
            scan_rows_max=self._options.find_scan_rows_max,
        )
        return await self._database.readers.run_as(chain, work)

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        """See ``EntryStore.redaction_ids``."""
        targets = orjson.dumps(list(target_seqs)).decode()
        return await self._database.readers.run_as(
            chain, lambda connection: dict(connection.execute(_REDACTION_IDS, (targets,)).fetchall())
        )

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See ``EntryStore.watch``."""
        return self._watchers.watch(chain)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``EntryStore.chains``."""
        last = (b"", "")
        while found := await self._database.readers.run(partial(_next_chains, last)):
            for named in found:
                yield _chain_named(named)
            last = found[-1]

    async def heads(self) -> AsyncIterator[tuple[Chain, Head | None]]:
        """See ``HeadLister``."""
        last = (b"", "")
        while found := await self._database.readers.run(partial(_next_heads, last)):
            for named, head in found:
                yield _chain_named(named), head
            last = found[-1][0]

    def auditor(self) -> EntryAuditor:
        """See ``EntryStore.auditor``."""
        return SqliteAuditor(self._database.path, self._database.settings.busy_timeout_s)

    async def ping(self) -> None:
        """See ``EntryStore.ping``."""
        await self._database.ping()


def _next_chains(last: tuple[bytes, str], connection: sqlite3.Connection) -> list[tuple[bytes, str]]:
    """Steps from group to group along an index, past the rows in between."""
    found: list[tuple[bytes, str]] = []
    while len(found) < _CHAINS_AT_ONCE and (row := connection.execute(_NEXT_CHAIN, last).fetchone()) is not None:
        last = row
        found.append(row)
    return found


def _next_heads(last: tuple[bytes, str], connection: sqlite3.Connection) -> list[tuple[tuple[bytes, str], Head | None]]:
    found: list[tuple[tuple[bytes, str], Head | None]] = []
    for named in _next_chains(last, connection):
        chain = _chain_named(named)
        try:
            head = _head_in(connection.execute(_HEAD_OF, (chain.org_id, chain.environment)).fetchone())
        except (ValueError, TypeError):
            head = None
        found.append((named, head))
    return found


def _head_in(row: tuple[int, str, str] | None) -> Head | None:
    return None if row is None else Head(row[0], row[1], parse_timestamp(row[2]))


def _chain_named(named: tuple[bytes, str]) -> Chain:
    return Chain(named[0].decode(errors="replace"), cast("Environment", named[1]))
