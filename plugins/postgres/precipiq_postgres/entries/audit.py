"""Raw reading of entries on PostgreSQL for verification, in any process: connections and an event loop of its own.

The auditor role reads, since row-level security shows it every row; the columns are compared with the statements.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

import asyncpg
import orjson

from precipiq_chain.chain_format import parse_json
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import InternalError, Unavailable
from precipiq_postgres.address import PostgresAddress
from precipiq_postgres.entries.columns import stands_beside
from precipiq_postgres.entries.mac_schema import COLUMNS
from precipiq_postgres.entries.schema import CHAINS_AFTER
from precipiq_postgres.errors import translate_errors
from precipiq_postgres.roles import SCHEMA, Roles

T = TypeVar("T")

_SEQ_END = 2**63 - 1
_BATCH_BYTES_MAX = 8 * 1024 * 1024
_AT_ONCE = 200

# Casts to the type that a column has cost nothing; with them a column whose type was altered is mostly still readable.
_FILED = "org_id::text = $1 AND environment::text = $2"
_ROWS = f"""
SELECT seq::bigint, hash, statement, payload, idempotency_key, idempotency_check, mac::text, {_FILED},
       id::text, kind, agent_id, action_type, redacts_seq
FROM entries WHERE {_FILED}
"""  # noqa: S608
"""The row's own values decide whether it is of the chain: the index may be damaged."""

_REDACTIONS = f"""
SELECT statement, mac::text FROM entries
WHERE {_FILED} AND kind::text = 'redaction' AND redacts_seq::bigint = ANY($3::bigint[]) AND seq::bigint > redacts_seq
"""  # noqa: S608
"""No redaction that stands before its target: the verified range may leave out that part of the chain."""

_NAMELESS_GROUP = """
SELECT org_id, environment, statement FROM entries
WHERE org_id = '' AND environment = '' ORDER BY seq DESC LIMIT 1
"""
_ENDS_OF_GROUPS = f"""
SELECT filed.org_id, filed.environment, ends.statement FROM ({CHAINS_AFTER}) AS filed CROSS JOIN LATERAL (
    (SELECT statement FROM entries AS e WHERE (e.org_id, e.environment) = (filed.org_id, filed.environment)
     ORDER BY seq LIMIT 1)
    UNION ALL
    (SELECT statement FROM entries AS e WHERE (e.org_id, e.environment) = (filed.org_id, filed.environment)
     ORDER BY seq DESC LIMIT 1)
) AS ends ORDER BY filed.org_id, filed.environment
"""  # noqa: S608
_DEFINITION = """
SELECT c.relkind::text AS kind, EXISTS (SELECT 1 FROM pg_rewrite AS r WHERE r.ev_class = c.oid) AS is_rewritten,
       (SELECT json_object_agg(
            a.attname,
            format_type(a.atttypid, a.atttypmod) || coalesce(' ' || o.collname, '')
            || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || a.attgenerated::text
        ) FROM pg_attribute AS a LEFT JOIN pg_collation AS o ON o.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::text AS columns,
       c.relrowsecurity AND c.relforcerowsecurity
       AND NOT EXISTS (SELECT 1 FROM pg_policy AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
       AND EXISTS (SELECT 1 FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
                   AND p.polroles = ARRAY[to_regrole(quote_ident(current_user))::oid]
                   AND pg_get_expr(p.polqual, p.polrelid) = 'true') AS is_shown,
       (SELECT reset_val FROM pg_settings WHERE name = 'search_path') AS path
FROM pg_class AS c WHERE c.oid = to_regclass($1)
"""
"""``is_shown``: the auditor sees every row. ``path``: the search path of the role that serves."""


@dataclass(frozen=True, slots=True)
class PostgresAuditor:
    """See ``EntryAuditor``. Raises ``Unavailable`` when the database cannot be read."""

    address: PostgresAddress
    roles: Roles
    timeout_s: float

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        """See ``EntryAuditor.batches``: one snapshot from beginning to end. From the start also rows below 1."""
        sql = _ROWS
        bounds: list[int] = []
        if after_seq > 0:
            bounds.append(after_seq)
            sql += f" AND seq::bigint > ${2 + len(bounds)}"
        if through_seq is not None:
            bounds.append(through_seq)
            sql += f" AND seq::bigint <= ${2 + len(bounds)}"
        with self._open() as session:
            problem = session.run(_problem_of_table)
            cursor = session.run(
                lambda connection: connection.cursor(
                    f"{sql} ORDER BY seq::bigint", chain.org_id, chain.environment, *bounds
                )
            )
            is_empty = True
            while rows := session.run(lambda _: _next_rows(cursor, size)):
                is_empty = False
                yield _batch(rows, problem)
            if is_empty and problem is not None:  # a policy may hide rows
                raise Unavailable(problem)

    def last_seq(self, chain: Chain) -> int:
        """See ``EntryAuditor.last_seq``."""
        sql = f"SELECT coalesce(max(seq::bigint), 0) FROM entries WHERE {_FILED}"  # noqa: S608
        return int(self._fetch(sql, chain.org_id, chain.environment)[0][0])

    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        """See ``EntryAuditor.hashes_at``."""
        sql = f"SELECT seq::bigint, hash::text FROM entries WHERE {_FILED} AND seq::bigint = ANY($3::bigint[])"  # noqa: S608
        hashes = dict(self._fetch(sql, chain.org_id, chain.environment, list(seqs)))
        return [hashes.get(seq) for seq in seqs]

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        """See ``EntryAuditor.redactions``."""
        rows = self._fetch(_REDACTIONS, chain.org_id, chain.environment, list(target_seqs))
        return [(_bytes(row[0]), row[1]) for row in rows]

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        """See ``EntryAuditor.stray``: reads both ends of every other group of rows with equal chain columns."""
        with self._open() as session:
            filed = ("", "")
            rows = session.fetch(_NAMELESS_GROUP)
            while rows := [*rows, *session.fetch(_ENDS_OF_GROUPS, *filed)]:
                for org_id, environment, statement in rows:
                    filed = (org_id, environment)
                    said = _fields_of(statement)
                    said_chain = (said.get("org_id"), said.get("environment"))
                    if said_chain == (chain.org_id, chain.environment) != filed:
                        where = f"it is filed under organisation {org_id!r}, environment {environment!r}"
                        seq = said.get("seq")
                        return (seq if isinstance(seq, int) else 0), where
                rows = []
        return None

    def _fetch(self, sql: str, *parameters: object) -> list[Any]:
        with self._open() as session:
            return session.fetch(sql, *parameters)

    @contextmanager
    def _open(self) -> Iterator[_Session]:
        session = _Session()
        try:
            with translate_errors():
                session.connect(self._connect)
                yield session
        except InternalError as error:
            raise Unavailable(f"the table of entries cannot be read: {error.message}") from error
        finally:
            session.close()

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(**self.address.options(), timeout=self.timeout_s)
        try:
            await connection.execute(self.roles.begin_as_auditor())
            await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL search_path = {SCHEMA}, pg_temp")
        except BaseException:
            connection.terminate()
            raise
        return connection


class _Session:
    """A connection in a thread of its own, for callers without an event loop or in the thread of another loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="precipiq-postgres-audit", daemon=True)
        self._thread.start()
        self._connection: asyncpg.Connection | None = None

    def connect(self, connect: Callable[[], Coroutine[Any, Any, asyncpg.Connection]]) -> None:
        self._connection = self._wait_for(connect())

    def run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def main() -> T:
            return await work(self._connection)

        return self._wait_for(main())

    def fetch(self, sql: str, *parameters: object) -> list[Any]:
        return self.run(lambda connection: connection.fetch(sql, *parameters))

    def close(self) -> None:
        if self._connection is not None:
            self._loop.call_soon_threadsafe(self._connection.terminate)
        self._wait_for(asyncio.sleep(0))  # the transport closes in the loop's next round
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _problem_of_table(connection: asyncpg.Connection) -> str | None:
    row = await connection.fetchrow(_DEFINITION, f"{SCHEMA}.entries")
    columns = {} if row is None else orjson.loads(row["columns"] or "{}")  # a newer version may have added some
    if row is None or row["kind"] != "r" or row["is_rewritten"] or not COLUMNS.items() <= columns.items():
        return "the definition of the table of entries was altered"
    if not row["is_shown"]:
        return "the row-level security of the table of entries was altered"
    if row["path"].split(",")[0].strip() not in (SCHEMA, f'"{SCHEMA}"') or "pg_catalog" in row["path"]:
        return f"the role that serves looks for the table of entries elsewhere than in schema {SCHEMA}"
    return None


async def _next_rows(cursor: Any, count_max: int) -> list[Any]:
    """The next rows, fewer than asked for where they are large; some at a time, so that memory bounds them."""
    rows: list[Any] = []
    size = 0
    while size < _BATCH_BYTES_MAX and (more := await cursor.fetch(min(count_max - len(rows), _AT_ONCE))):
        rows += more
        size += sum([len(text) for row in more for text in (row[2], row[3]) if isinstance(text, str | bytes)])
        if len(rows) == count_max:
            break
    return rows


def _batch(rows: Sequence[Any], problem_of_table: str | None) -> AuditBatch:
    seqs, hashes, statements, payloads, keys, checks, macs, are_filed, *columns = zip(*rows, strict=True)
    if problem_of_table is not None:  # in an altered table a column may have any type
        seqs = tuple(_SEQ_END if seq is None else seq for seq in seqs)
        payloads = tuple(None if payload is None else _bytes(payload) for payload in payloads)
        return AuditBatch(
            seqs, tuple(map(str, hashes)), tuple(map(_bytes, statements)), payloads, macs, (0, problem_of_table)
        )
    problem = _problem_of_columns(statements, zip(*columns, strict=True))
    if keys.count(None) < len(keys) or checks.count(None) < len(checks):
        of_keys = _problem_of_keys(hashes, keys, checks)
        problem = min((each for each in (problem, of_keys) if each is not None), default=None)
    if not all(are_filed) and (problem is None or are_filed.index(False) < problem[0]):
        problem = are_filed.index(False), "the row says another chain than its index"
    return AuditBatch(seqs, hashes, statements, payloads, macs, problem)


def _problem_of_columns(statements: Sequence[bytes], columns: Iterator[Any]) -> tuple[int, str] | None:
    for index, (statement, stored) in enumerate(zip(statements, columns, strict=True)):
        try:
            is_same = stands_beside(statement, stored)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the verification reports a damaged statement by itself
        if not is_same:
            return index, "what stands beside the statement is not what the statement says"
    return None


def _problem_of_keys(hashes: Sequence[str], keys: Sequence[Any], checks: Sequence[Any]) -> tuple[int, str] | None:
    for index, (key, check) in enumerate(zip(keys, checks, strict=True)):
        if key is None and check is None:
            continue
        if key is None or check is None or sha256(b"%b\n%b" % (key, hashes[index].encode())).hexdigest() != check:
            return index, "the idempotency key is not the one that was stored with the entry"
    return None


def _fields_of(statement: bytes) -> dict[str, object]:
    try:
        fields: Any = parse_json(statement)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
