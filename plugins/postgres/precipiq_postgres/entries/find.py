"""Finding entries on PostgreSQL. An index gives candidates, newest first and bounded in number; values decide."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from precipiq_chain.matching import matcher, member_fragments
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import LAST_US, format_timestamp
from precipiq_contracts.entry_store import EntryPage, EntryQuery
from precipiq_postgres.entries.columns import column_text

ENTRY_COLUMNS = "seq, hash, statement, payload, idempotency_key, mac"

_INDEXED_FIELDS = ("agent_id", "action_type")
_UNINDEXED_KIND = "decision"
_SEQ_END = 2**63 - 1
_INLINE_BYTES_MAX = 64 * 1024
_TIME_BYTES_FROM_END = 34  # a canonical statement ends with "timestamp":"<27 characters>","v":1}

_TIME_AT_MIDDLE = f"""
(SELECT substring(statement FROM octet_length(statement) - {_TIME_BYTES_FROM_END} FOR 27) FROM entries
 WHERE org_id = $1 AND environment = $2 AND seq = (low + high) / 2)
"""  # noqa: S608  (text is above)
_SEQ_AT = f"""
WITH RECURSIVE search (low, high) AS (
    SELECT 1::bigint,
           (SELECT coalesce(max(seq), 0) + 1 FROM entries WHERE org_id = $1 AND environment = $2)
    UNION ALL
    SELECT CASE WHEN is_earlier THEN (low + high) / 2 + 1 ELSE low END,
           CASE WHEN is_earlier THEN high ELSE (low + high) / 2 END
    FROM (
        SELECT low, high, coalesce({_TIME_AT_MIDDLE} < $3::bytea, true) AS is_earlier FROM search WHERE low < high
    ) AS narrowed
)
SELECT low FROM search WHERE low >= high
"""  # noqa: S608  (made of constants; values are parameters)


def entry_from_row(chain: Chain, row: Any) -> Entry:
    """From a row of :data:`ENTRY_COLUMNS`."""
    key = row["idempotency_key"]
    stored = row["seq"], row["hash"], row["statement"], row["payload"]
    return Entry(chain, *stored, None if key is None else key.decode(), row["mac"])


async def find_page(
    connection: asyncpg.Connection,
    chain: Chain,
    query: EntryQuery,
    before_seq: int | None,
    limit: int,
    scan_rows_max: int,
) -> EntryPage:
    """One page. Looks at ``scan_rows_max`` candidates at most, then gives a short page that says where to go on."""
    search = _Search(chain, query, before_seq, limit, scan_rows_max)
    await search.bound_by_time(connection)
    rows = [entry_from_row(chain, row) for row in await connection.fetch(search.sql(), *search.parameters)]
    found = await _matching(query, rows)
    if len(found) > limit:
        return EntryPage(tuple(found[:limit]), found[limit - 1].seq)
    if len(rows) > limit:
        return EntryPage(tuple(found), rows[-1].seq)
    return EntryPage(tuple(found), await search.next_candidate(connection))


async def _matching(query: EntryQuery, rows: Sequence[Entry]) -> list[Entry]:
    """Those whose values match; payloads are parsed for it, large ones in a thread."""
    if not query.metadata or sum([len(entry.payload or b"") for entry in rows]) <= _INLINE_BYTES_MAX:
        return list(filter(matcher(query), rows))
    return await asyncio.to_thread(lambda: list(filter(matcher(query), rows)))


class _Search:
    def __init__(self, chain: Chain, query: EntryQuery, before_seq: int | None, limit: int, scan_rows_max: int) -> None:
        self._chain = chain
        self._query = query
        self._limit = limit
        self._scan_rows_max = scan_rows_max
        self._after = 0
        self._before = _SEQ_END if before_seq is None else min(before_seq, _SEQ_END)
        self.parameters: list[object] = []

    async def bound_by_time(self, connection: asyncpg.Connection) -> None:
        """Turn times into seqs: timestamps increase along a chain."""
        if self._query.start_us is not None:
            self._after = await self._seq_at(connection, self._query.start_us) - 1
        if self._query.end_us is not None:
            self._before = min(self._before, await self._seq_at(connection, self._query.end_us))

    async def _seq_at(self, connection: asyncpg.Connection, time_us: int) -> int:
        """The first seq whose timestamp is not before that time; one past the end when there is none."""
        time = format_timestamp(min(max(time_us, 0), LAST_US)).encode()
        return int(await connection.fetchval(_SEQ_AT, self._chain.org_id, self._chain.environment, time))

    def sql(self) -> str:
        """Rows, newest first, that may match; its parameters are in :attr:`parameters`."""
        self.parameters = []
        candidates = self._candidates()
        conditions = [f"kind = {self._parameter(column_text(self._query.kind))}"]
        for name in _INDEXED_FIELDS:
            if name in self._query.body:
                conditions.append(f"{name} = {self._parameter(column_text(self._query.body[name]))}")
        others = {name: value for name, value in self._query.body.items() if name not in _INDEXED_FIELDS}
        conditions += self._fragments("statement", others, with_scalars=False)
        conditions += self._fragments("payload", self._query.metadata, with_scalars=True)
        chosen = f"""
            SELECT {ENTRY_COLUMNS}, kind, agent_id, action_type
            FROM entries WHERE {candidates} ORDER BY seq DESC LIMIT {self._parameter(self._scan_rows_max)}
        """  # noqa: S608
        return (
            f"SELECT {ENTRY_COLUMNS} FROM ({chosen}) AS candidate WHERE {' AND '.join(conditions)} "  # noqa: S608
            f"ORDER BY seq DESC LIMIT {self._parameter(self._limit + 1)}"
        )

    async def next_candidate(self, connection: asyncpg.Connection) -> int | None:
        """The seq of the last candidate that was looked at, when there were more of them than may be looked at."""
        self.parameters = []
        condition = self._candidates()
        sql = (
            f"SELECT seq FROM entries WHERE {condition} ORDER BY seq DESC "  # noqa: S608
            f"LIMIT 1 OFFSET {self._parameter(self._scan_rows_max - 1)}"
        )
        seq: int | None = await connection.fetchval(sql, *self.parameters)
        return seq

    def _candidates(self) -> str:
        """A condition that one index answers by itself, in the order of seq."""
        body = self._query.body
        conditions = [
            f"org_id = {self._parameter(self._chain.org_id)}",
            f"environment = {self._parameter(self._chain.environment)}",
        ]
        if "agent_id" in body:
            conditions.append(f"agent_id = {self._parameter(column_text(body['agent_id']))}")
        elif "action_type" in body:
            conditions.append(f"action_type = {self._parameter(column_text(body['action_type']))}")
        elif self._query.kind != _UNINDEXED_KIND:  # the index is partial
            conditions.append(
                f"kind = {self._parameter(column_text(self._query.kind))} AND kind <> '{_UNINDEXED_KIND}'"
            )
        conditions.append(f"seq > {self._parameter(self._after)} AND seq < {self._parameter(self._before)}")
        return " AND ".join(conditions)

    def _fragments(self, column: str, wanted: Mapping[str, str], *, with_scalars: bool) -> list[str]:
        return [
            "(" + " OR ".join(f"position({self._parameter(text.encode())} IN {column}) > 0" for text in fragments) + ")"
            for fragments in member_fragments(wanted, with_scalars=with_scalars)
        ]

    def _parameter(self, value: object) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"
