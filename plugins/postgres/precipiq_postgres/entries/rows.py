"""What appending reads and writes of PostgreSQL's table of entries: a function for each statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from precipiq_chain.chain_format import statement_timestamp
from precipiq_chain.grouping import AppendJob, idempotency_check, wanted_keys
from precipiq_contracts.chain import Chain, Entry, Head
from precipiq_contracts.clock import parse_timestamp
from precipiq_postgres.entries.columns import indexed_columns

_APPEND = "SELECT append_entries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
_HEAD = """
SELECT seq, hash, statement FROM entries
WHERE org_id = $1 AND environment = $2 ORDER BY seq DESC LIMIT 1
"""
_KNOWN = """
SELECT known.* FROM unnest($3::bytea[]) AS wanted (key) CROSS JOIN LATERAL (
    SELECT idempotency_key, seq, hash, statement, payload, mac FROM entries
    WHERE org_id = $1 AND environment = $2 AND idempotency_key IS NOT NULL AND sha256(idempotency_key) = sha256(key)
    LIMIT 1
) AS known
"""
_STORED = "SELECT hash FROM entries WHERE org_id = $1 AND environment = $2 AND seq = $3"
_ERASE = "SELECT erase_payload($1, $2, $3)"


async def is_stored(connection: asyncpg.Connection, chain: Chain, entry: Entry) -> bool:
    """Whether that very entry is stored, and so all that were appended with it."""
    stored = await connection.fetchval(_STORED, chain.org_id, chain.environment, entry.seq)
    return bool(stored == entry.hash)


async def read_head(connection: asyncpg.Connection, chain: Chain) -> Head | None:
    """The chain's last entry."""
    row = await connection.fetchrow(_HEAD, chain.org_id, chain.environment)
    return None if row is None else head_from_row(row)


def head_from_row(row: Any) -> Head:
    """From a row of seq, hash and statement."""
    return Head(row["seq"], row["hash"], parse_timestamp(statement_timestamp(row["statement"])))


async def known_entries(
    connection: asyncpg.Connection, chain: Chain, jobs: Sequence[AppendJob]
) -> dict[tuple[Chain, str], Entry]:
    """The stored entries whose idempotency keys occur among the drafts."""
    keys = [key.encode() for _, key in wanted_keys(jobs)]
    if not keys:
        return {}
    rows = await connection.fetch(_KNOWN, chain.org_id, chain.environment, keys)
    known: dict[tuple[Chain, str], Entry] = {}
    for row in rows:
        key = row["idempotency_key"].decode()
        stored = row["seq"], row["hash"], row["statement"], row["payload"]
        known[chain, key] = Entry(chain, *stored, key, row["mac"])
    return known


def prepare_append(
    chain: Chain, head: Head | None, entries: Sequence[Entry]
) -> Callable[[asyncpg.Connection], Awaitable[str]]:
    """A call of the function ``append_entries``; it gives ``appended``, ``moved`` or ``known``."""
    arguments = _arguments(chain, head, entries)

    async def append(connection: asyncpg.Connection) -> str:
        return str(await connection.fetchval(_APPEND, *arguments))

    return append


async def erase_payload(connection: asyncpg.Connection, chain: Chain, seq: int) -> None:
    """Drop a payload whose redaction entry was appended in the same transaction."""
    await connection.execute(_ERASE, chain.org_id, chain.environment, seq)


def _arguments(chain: Chain, head: Head | None, entries: Sequence[Entry]) -> tuple[Any, ...]:
    columns = list(zip(*(indexed_columns(entry.statement) for entry in entries), strict=True))
    keys: list[bytes | None] | None = None
    checks: list[str | None] | None = None
    if any(entry.idempotency_key is not None for entry in entries):
        pairs = [(entry.idempotency_key, entry.hash) for entry in entries]
        keys = [None if key is None else key.encode() for key, _ in pairs]
        checks = [None if key is None else idempotency_check(key, hash_) for key, hash_ in pairs]
    return (
        chain.org_id,
        chain.environment,
        0 if head is None else head.seq,
        "" if head is None else head.hash,
        *columns,
        [entry.statement for entry in entries],
        [entry.payload for entry in entries],
        [entry.hash for entry in entries],
        keys,
        checks,
        [entry.mac for entry in entries],
    )
