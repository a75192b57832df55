"""Finding entries on SQLite, in a reader's thread, through a connection that shows one chain alone.

An index gives the candidates, newest first and bounded in number; SQLite drops those that cannot match, by the exact
bytes that canonical JSON would have; Python compares the rest by value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import cast

import orjson

from precipiq_chain.matching import matcher, member_fragments
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.clock import LAST_US, format_timestamp
from precipiq_contracts.entry_store import EntryPage, EntryQuery

ENTRY_COLUMNS = "seq, hash, statement, payload, idempotency_key, mac"
ENTRIES_PACKED = f"SELECT json_group_array(json_array({ENTRY_COLUMNS})) FROM"
"""Rows as one JSON text: one call of SQLite for any number of rows."""

_INDEXED_FIELDS = ("agent_id", "action_type")
_UNINDEXED_KIND = "decision"
_SEQ_END = 2**63 - 1

_IS_MIDDLE_EARLIER = """
coalesce((SELECT substr(statement, -35, 27) FROM entries WHERE seq = (low + high) / 2), '') < :time
"""
_SEQ_AT = f"""
WITH RECURSIVE search (low, high) AS (
    SELECT 1, (SELECT max(seq) + 1 FROM entries)
    UNION ALL
    SELECT iif({_IS_MIDDLE_EARLIER}, (low + high) / 2 + 1, low), iif({_IS_MIDDLE_EARLIER}, high, (low + high) / 2)
    FROM search WHERE low < high
)
SELECT low FROM search WHERE low >= high
"""  # noqa: S608


def unpack_entries(chain: Chain, packed: str) -> list[Entry]:
    """Entries from rows that were selected with :data:`ENTRIES_PACKED`."""
    return [
        Entry(chain, seq, hash_, statement.encode(), None if payload is None else payload.encode(), key, mac)
        for seq, hash_, statement, payload, key, mac in orjson.loads(packed)
    ]


def find_page(
    connection: sqlite3.Connection,
    chain: Chain,
    query: EntryQuery,
    before_seq: int | None,
    limit: int,
    scan_rows_max: int,
) -> EntryPage:
    """One page. Looks at ``scan_rows_max`` candidates at most, then gives a short page that says where to go on."""
    search = _Search(query, before_seq, limit, scan_rows_max)
    search.bound_by_time(connection)
    rows = unpack_entries(chain, connection.execute(search.sql(), search.parameters).fetchone()[0])
    found = list(filter(matcher(query), rows))
    if len(found) > limit:
        return EntryPage(tuple(found[:limit]), found[limit - 1].seq)
    if len(rows) > limit:
        return EntryPage(tuple(found), rows[-1].seq)
    return EntryPage(tuple(found), search.next_candidate(connection))


class _Search:
    def __init__(self, query: EntryQuery, before_seq: int | None, limit: int, scan_rows_max: int) -> None:
        self._query = query
        self._conditions: list[str] = ["entry.kind = :kind"]
        self.parameters: dict[str, str | int] = {
            "kind": query.kind,
            "after": 0,
            "before": _SEQ_END if before_seq is None else before_seq,
            "limit": limit + 1,
            "scan_max": scan_rows_max,
        }
        self.parameters |= {name: query.body[name] for name in _INDEXED_FIELDS if name in query.body}
        if all(name in query.body for name in _INDEXED_FIELDS):
            self._conditions.append("candidate.action_type = :action_type")
        others = {name: value for name, value in query.body.items() if name not in _INDEXED_FIELDS}
        self._require_fragments("statement", others, with_scalars=False)
        self._require_fragments("payload", query.metadata, with_scalars=True)

    def _require_fragments(self, column: str, wanted: Mapping[str, str], *, with_scalars: bool) -> None:
        for number, fragments in enumerate(member_fragments(wanted, with_scalars=with_scalars)):
            terms = []
            for index, fragment in enumerate(fragments):
                parameter = f"{column}_{number}_{index}"
                self.parameters[parameter] = fragment
                terms.append(f"instr(entry.{column}, :{parameter})")
            self._conditions.append(f"({' OR '.join(terms)})")

    def bound_by_time(self, connection: sqlite3.Connection) -> None:
        """Turn times into seqs: timestamps increase along a chain."""
        if self._query.start_us is not None:
            self.parameters["after"] = _seq_at(connection, self._query.start_us) - 1
        if self._query.end_us is not None:
            end_seq = _seq_at(connection, self._query.end_us)
            self.parameters["before"] = min(cast("int", self.parameters["before"]), end_seq)

    def sql(self) -> str:
        """Packed rows, newest first, that may match. The join keeps the candidates' order."""
        return f"""{ENTRIES_PACKED} (
            SELECT entry.seq, entry.hash, entry.statement, entry.payload, entry.idempotency_key, entry.mac
            FROM ({self._candidates()} LIMIT :scan_max) AS candidate
            CROSS JOIN entries AS entry ON entry.seq = candidate.seq
            WHERE {" AND ".join(self._conditions)}
            LIMIT :limit
        )"""  # noqa: S608  (made of constants; values are parameters)

    def next_candidate(self, connection: sqlite3.Connection) -> int | None:
        """The seq of the last candidate that was looked at, when there were more of them than may be looked at."""
        sql = f"{self._candidates()} LIMIT 1 OFFSET :scan_max - 1"
        row = connection.execute(sql, self.parameters).fetchone()
        return None if row is None else row[0]

    def _candidates(self) -> str:
        """The candidates' seqs, newest first, straight from an index; the index of agents has the action's type too."""
        columns, condition = "seq", "TRUE"
        if "agent_id" in self._query.body:
            columns, condition = "seq, action_type", "agent_id = :agent_id"
        elif "action_type" in self._query.body:
            condition = "action_type = :action_type"
        elif self._query.kind != _UNINDEXED_KIND:
            condition = f"kind = :kind AND kind <> '{_UNINDEXED_KIND}'"  # the index is partial
        return (
            f"SELECT {columns} FROM entries WHERE {condition} AND seq > :after AND seq < :before "  # noqa: S608
            "ORDER BY seq DESC"
        )


def _seq_at(connection: sqlite3.Connection, time_us: int) -> int:
    """The first seq whose timestamp is not before that time; one past the end when there is none."""
    time = format_timestamp(min(max(time_us, 0), LAST_US))
    row = connection.execute(_SEQ_AT, {"time": time}).fetchone()
    return 1 if row is None else int(row[0])
