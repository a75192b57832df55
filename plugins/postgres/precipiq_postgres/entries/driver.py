"""The PostgreSQL driver: entries in PostgreSQL, appended and read as the tenant by any number of processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import asyncpg

from precipiq_chain.grouping import AppendJob, check_storable
from precipiq_chain.ledger_hooks import DriverOptions
from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain, Entry, Environment, Head, PreparedDraft
from precipiq_contracts.database import Migration, Statement
from precipiq_contracts.entry_store import (
    MULTI_WRITER,
    Appended,
    EntryAuditor,
    EntryPage,
    EntryQuery,
    EntryStore,
    Seal,
)
from precipiq_core.background import standalone_background
from precipiq_postgres.entries.append import PostgresAppender
from precipiq_postgres.entries.audit import PostgresAuditor
from precipiq_postgres.entries.columns import column_text
from precipiq_postgres.entries.find import ENTRY_COLUMNS, entry_from_row, find_page
from precipiq_postgres.entries.rows import head_from_row
from precipiq_postgres.entries.schema import CHAINS_AFTER
from precipiq_postgres.entries.watch import PostgresWatchers
from precipiq_postgres.roles import SCHEMA
from precipiq_postgres.service import PostgresDatabase

_SEQ_END = 2**63 - 1
_COLUMNS = ("org_id", "environment")
MIGRATIONS = Path(__file__).parents[1] / "sql" / "migrations"

_FILED = "org_id = $1 AND environment = $2"
_HEAD = f"SELECT seq, hash, statement FROM entries WHERE {_FILED} ORDER BY seq DESC LIMIT 1"  # noqa: S608
_HEADS_AFTER = f"""
SELECT named.org_id, named.environment, head.seq, head.hash, head.statement FROM ({CHAINS_AFTER}) AS named
CROSS JOIN LATERAL (
    SELECT seq, hash, statement FROM entries
    WHERE entries.org_id = named.org_id AND entries.environment = named.environment ORDER BY seq DESC LIMIT 1
) AS head
ORDER BY named.org_id, named.environment
"""  # noqa: S608
_GET = f"SELECT {ENTRY_COLUMNS} FROM entries WHERE {_FILED} AND id = $3"  # noqa: S608
_READ = f"SELECT {ENTRY_COLUMNS} FROM entries WHERE {_FILED} AND seq > $3 {{kind}} ORDER BY seq LIMIT $4"  # noqa: S608
_STATEMENTS = f"""
SELECT count(*) AS count, max(seq) AS last_seq, string_agg(statement, '\\x0a' ORDER BY seq) AS text
FROM (SELECT seq, statement FROM entries WHERE {_FILED} AND seq > $3 ORDER BY seq LIMIT $4) AS page
"""  # noqa: S608
_STATEMENTS_AT_ONCE = 500

_REDACTION_IDS = f"""
SELECT redacts_seq, id::text FROM entries
WHERE {_FILED} AND kind = 'redaction' AND redacts_seq = ANY($3::bigint[]) AND seq > redacts_seq
"""  # noqa: S608


_APPENDS_WITHOUT_MACS = f"""
SELECT 1 AS is_there FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = '{SCHEMA}' AND p.proname = 'append_entries' AND p.pronargs = 14
"""  # noqa: S608


class PostgresDriver:
    """See ``EntryStoreDriver``. The database must be open before, and as long as, the store is.

    ``background`` runs the watchers; without it, no metric and no readiness check covers them.
    """

    name: str = "postgres"
    capabilities: frozenset[str] = frozenset((MULTI_WRITER,))
    migrations: Sequence[Migration] = (
        Migration("ledger", MIGRATIONS, {"entries": _COLUMNS, "ledger_checkpoints": _COLUMNS}, frozenset({"entries"})),
    )

    def __init__(
        self,
        database: PostgresDatabase,
        options: DriverOptions | None = None,
        background: Background | None = None,
    ) -> None:
        self._database = database
        self._background = background or standalone_background()
        self._options = options or DriverOptions()

    def open(self) -> AbstractAsyncContextManager[EntryStore]:
        """See ``EntryStoreDriver.open``."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[EntryStore]:
        watchers = PostgresWatchers(self._database, self._options.watch_poll_s)
        async with watchers.run(self._background):
            appender = PostgresAppender(self._database, watchers.note_append)
            try:
                yield PostgresEntryStore(self._database, self._options, watchers, appender)
            finally:
                await appender.finish()


class PostgresEntryStore:
    """See ``precipiq_contracts.entry_store.EntryStore``."""

    def __init__(
        self,
        database: PostgresDatabase,
        options: DriverOptions,
        watchers: PostgresWatchers,
        appender: PostgresAppender,
    ) -> None:
        self._database = database
        self._options = options
        self._watchers = watchers
        self._appender = appender

    async def append(self, chain: Chain, drafts: Sequence[PreparedDraft], seal: Seal) -> Appended:
        """See ``EntryStore.append``. Concurrent appends to one chain share a transaction; chains run in parallel.

        ``seal`` may be called a second time, when another process appended first.
        """
        check_storable(chain, drafts)
        return await self._appender.append(AppendJob(chain, tuple(drafts), seal))

    async def redact(self, chain: Chain, target: Entry, draft: PreparedDraft, seal: Seal) -> Entry:
        """See ``EntryStore.redact``. Redaction entry and erasure are one transaction; then no row holds the payload.

        PostgreSQL frees its bytes with the next round of autovacuum but overwrites them when it uses the space again,
        or at once with VACUUM (FULL); the write-ahead log holds them until it is recycled.
        """
        check_storable(chain, [draft])
        appended = await self._appender.append(AppendJob(chain, (draft,), seal, target.seq))
        return appended.entries[0]

    async def head(self, chain: Chain) -> Head | None:
        """See ``EntryStore.head``."""
        rows = await self._select(chain, _HEAD, chain.org_id, chain.environment)
        return head_from_row(rows[0]) if rows else None

    async def read(self, chain: Chain, after_seq: int, limit: int, kind: str | None = None) -> Sequence[Entry]:
        """See ``EntryStore.read``."""
        if after_seq >= _SEQ_END:
            return []
        parameters: list[object] = [chain.org_id, chain.environment, max(after_seq, 0), limit]
        condition = ""
        if kind is not None:
            parameters.append(column_text(kind))
            condition = "AND kind = $5" if kind == "decision" else "AND kind = $5 AND kind <> 'decision'"
        rows = await self._select(chain, _READ.format(kind=condition), *parameters)
        return [entry_from_row(chain, row) for row in rows]

    async def statements(
        self, chain: Chain, after_seq: int, limit: int, bytes_max: int
    ) -> tuple[Sequence[bytes], int] | None:
        """See ``StatementReader``. Canonical JSON holds no line break. One question may exceed ``bytes_max``."""
        found: list[bytes] = []
        size = 0
        while size < bytes_max and len(found) < limit and after_seq < _SEQ_END:
            asked = min(_STATEMENTS_AT_ONCE, limit - len(found))
            [row] = await self._select(chain, _STATEMENTS, chain.org_id, chain.environment, max(after_seq, 0), asked)
            if not row["count"]:
                break
            lines = [] if row["text"] is None else row["text"].split(b"\n")
            if len(lines) != row["count"]:
                return None
            found += lines
            size += len(row["text"])
            after_seq = row["last_seq"]
            if row["count"] < asked:
                break
        return found, after_seq

    async def get(self, chain: Chain, entry_id: str) -> Entry | None:
        """See ``EntryStore.get``."""
        if not _is_id(entry_id):
            return None
        rows = await self._select(chain, _GET, chain.org_id, chain.environment, entry_id)
        return entry_from_row(chain, rows[0]) if rows else None

    async def redaction_ids(self, chain: Chain, target_seqs: Sequence[int]) -> Mapping[int, str]:
        """See ``EntryStore.redaction_ids``."""
        rows = await self._select(chain, _REDACTION_IDS, chain.org_id, chain.environment, list(target_seqs))
        return {row["redacts_seq"]: row["id"] for row in rows}

    async def _select(self, chain: Chain, sql: str, *parameters: object) -> list[Any]:
        async def work(connection: asyncpg.Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(sql, *parameters)
            return rows

        return await self._database.read_as(chain, work)

    async def find(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int) -> EntryPage:
        """See ``EntryStore.find``."""
        scan_max = self._options.find_scan_rows_max
        return await self._database.read_as(
            chain, lambda connection: find_page(connection, chain, query, before_seq, limit, scan_max)
        )

    def watch(self, chain: Chain) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See ``EntryStore.watch``."""
        return self._watchers.watch(chain)

    async def chains(self) -> AsyncIterator[Chain]:
        """See ``EntryStore.chains``."""
        async for row in self._pages(CHAINS_AFTER):
            yield _chain_in(row)

    async def heads(self) -> AsyncIterator[tuple[Chain, Head | None]]:
        """See ``HeadLister``."""
        async for row in self._pages(_HEADS_AFTER):
            try:
                head = head_from_row(row)
            except (ValueError, TypeError):
                head = None
            yield _chain_in(row), head

    async def _pages(self, sql: str) -> AsyncIterator[asyncpg.Record]:
        last = ("", "")
        begin = self._database.roles.begin_as_auditor()
        while rows := await self._database.read_in(begin, lambda connection: connection.fetch(sql, *last)):  # noqa: B023
            for row in rows:
                yield row
            last = (rows[-1]["org_id"], rows[-1]["environment"])

    def auditor(self) -> EntryAuditor:
        """See ``EntryStore.auditor``."""
        database = self._database
        return PostgresAuditor(database.listen_address, database.roles, database.settings.connection_wait_s)

    async def is_upgrade_over(self) -> bool:
        """See ``UpgradingStore``: `precipiq migrate --post` drops the function that appends without MACs."""
        return not await self._database.fetch(Statement(_APPENDS_WITHOUT_MACS))

    async def ping(self) -> None:
        """See ``EntryStore.ping``."""
        await self._database.ping()


def _chain_in(row: asyncpg.Record) -> Chain:
    return Chain(row["org_id"], cast("Environment", row["environment"]))


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
