"""Raw reading of an SQLite file for verification, in any process: the auditor opens a connection and trusts no index.

Imports little, so that a verifying process starts fast.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from precipiq_chain.chain_format import parse_json
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import Unavailable
from precipiq_sqlite.connection import open_for_reading, translate_errors
from precipiq_sqlite.entries.mac_schema import ENTRIES_TABLE

_FILED = "org_id = ?1 AND environment = ?2"
_ROWS = """
SELECT row.statement, row.payload, row.hash, row.idempotency_key, row.idempotency_check, row.mac,
       iif(row.org_id = ?1 AND row.environment = ?2, row.seq, NULL)
FROM entries AS filed CROSS JOIN entries AS row ON row.rowid = filed.rowid
WHERE filed.org_id = ?1 AND filed.environment = ?2
"""
"""Joined with itself: the values are then the row's own, where SQLite would give those of the index that led to it."""
_LAST_SEQ = f"SELECT coalesce(max(seq), 0) FROM entries WHERE {_FILED} AND seq <= ?3"  # noqa: S608  (text is above)
_REDACTIONS = f"""
SELECT statement, mac FROM entries
WHERE {_FILED} AND kind = 'redaction' AND redacts_seq IN (SELECT value FROM json_each(?3)) AND seq > redacts_seq
"""  # noqa: S608
"""No redaction that stands before its target: the verified range may leave out that part of the chain."""

_MAYBE_REDACTIONS = (
    f'SELECT statement, mac, seq FROM entries WHERE {_FILED} AND instr(statement, \'"kind":"redaction"\')'  # noqa: S608
)
_GROUP = "org_id, environment, typeof(org_id) = 'text' AND typeof(environment) = 'text' FROM entries"
_FIRST_GROUP = f"SELECT rowid, {_GROUP} ORDER BY org_id, environment LIMIT 1"
_OF_ROW = "(SELECT org_id, environment FROM entries WHERE rowid = :row)"
_NEXT_GROUP = f"""
SELECT rowid, {_GROUP} WHERE (org_id, environment) > {_OF_ROW}
ORDER BY org_id, environment LIMIT 1
"""
_ENDS_OF_GROUP = f"""
SELECT seq, statement FROM entries WHERE (org_id, environment) = {_OF_ROW} AND seq IN (
    (SELECT min(seq) FROM entries WHERE (org_id, environment) = {_OF_ROW}),
    (SELECT max(seq) FROM entries WHERE (org_id, environment) = {_OF_ROW})
)
"""  # noqa: S608
_GROUPS_OF_ROWS = f"SELECT min(rowid), {_GROUP} NOT INDEXED GROUP BY org_id, environment"
_SEQ_END = 2**63 - 1
_BATCH_BYTES_MAX = 8 * 1024 * 1024
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class SqliteAuditor:
    """See ``EntryAuditor``. Raises ``Unavailable`` when the file cannot be read. ``path``: the database file."""

    path: Path
    busy_timeout_s: float

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        """See ``EntryAuditor.batches``: one snapshot from beginning to end.

        From the start the rows below 1 too, to the end those whose seq is no number too: no append writes such rows.
        """
        sql = _ROWS
        bounds: list[int] = []
        if after_seq > 0:
            sql += " AND filed.seq > ?"
            bounds.append(after_seq)
        if through_seq is not None:
            sql += " AND filed.seq <= ?"
            bounds.append(through_seq)
        with self._open() as connection:
            problem = _problem_of_table(connection)
            cursor = connection.execute(f"{sql} ORDER BY filed.seq", (chain.org_id, chain.environment, *bounds))
            while rows := _next_rows(cursor, size):
                yield _batch(rows, problem)

    def last_seq(self, chain: Chain) -> int:
        """See ``EntryAuditor.last_seq``."""
        return int(self._fetch(_LAST_SEQ, chain.org_id, chain.environment, _SEQ_END)[0][0])

    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        """See ``EntryAuditor.hashes_at``."""
        sql = f"SELECT seq, hash FROM entries WHERE {_FILED} AND seq IN (SELECT value FROM json_each(?3))"  # noqa: S608
        rows = self._fetch(sql, chain.org_id, chain.environment, orjson.dumps(list(seqs)).decode())
        hashes = {seq: _text(hash_) for seq, hash_ in rows}
        return [hashes.get(seq) for seq in seqs]

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        """See ``EntryAuditor.redactions``."""
        filed = (chain.org_id, chain.environment)
        with self._open() as connection:
            try:
                rows = connection.execute(_REDACTIONS, (*filed, orjson.dumps(list(target_seqs)).decode())).fetchall()
            except sqlite3.OperationalError:  # SQLite can take no value from a damaged statement
                wanted = set(target_seqs)
                maybe = connection.execute(_MAYBE_REDACTIONS, filed)
                rows = [
                    row for row in maybe
                    if (target := _target_seq(row[0])) in wanted and isinstance(row[2], int) and row[2] > target
                ]  # fmt: skip
        return [(row[0], _mac(row[1])) for row in rows]

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        """See ``EntryAuditor.stray``: reads both ends of every other group of rows with equal chain columns."""
        with self._open() as connection:
            for row, org, env, are_text in _groups(connection):
                org_id, environment = _text(org), _text(env)
                if are_text and (org_id, environment) == (chain.org_id, chain.environment):
                    continue
                for _, statement in connection.execute(_ENDS_OF_GROUP, {"row": row}).fetchall():
                    said = _fields_of(statement)
                    if (said.get("org_id"), said.get("environment")) == (chain.org_id, chain.environment):
                        where = f"it is filed under organisation {org_id!r}, environment {environment!r}"
                        return _seq_in(said), where
        return None

    def _fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._open() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with translate_errors(), closing(open_for_reading(self.path, self.busy_timeout_s)) as connection:
                connection.text_factory = bytes
                yield connection
        except sqlite3.Error as error:
            raise Unavailable(f"the table of entries cannot be read: {error}") from error


def _groups(connection: sqlite3.Connection) -> Iterator[tuple[int, Any, Any, int]]:
    """A row of each group of rows with equal chain columns. Steps along an index, which may contradict the rows."""
    seen: set[int] = set()
    group = connection.execute(_FIRST_GROUP).fetchone()
    while group is not None and group[0] not in seen:
        yield group
        seen.add(group[0])
        group = connection.execute(_NEXT_GROUP, {"row": group[0]}).fetchone()
    if group is not None:
        yield from connection.execute(_GROUPS_OF_ROWS).fetchall()


def _next_rows(cursor: sqlite3.Cursor, count_max: int) -> list[tuple[Any, ...]]:
    """The next rows, fewer than asked for where they are large; some at a time, so that memory bounds them."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    while size < _BATCH_BYTES_MAX and (more := cursor.fetchmany(min(count_max - len(rows), _AT_ONCE))):
        rows += more
        try:
            size += sum([len(row[0]) + len(row[1] or b"") for row in more])
        except TypeError:  # an intruder's number
            size += sum([len(text) for row in more for text in row[:2] if isinstance(text, str | bytes)])
        if len(rows) == count_max:
            break
    return rows


def _batch(rows: list[tuple[Any, ...]], problem_of_table: str | None) -> AuditBatch:
    statements, payloads, hashes, keys, checks, macs, seqs = zip(*rows, strict=True)
    if problem_of_table is not None:  # in an altered table a column may have any type
        statements = tuple(_text(value).encode() for value in statements)
        payloads = tuple(None if value is None else _text(value).encode() for value in payloads)
    problem = (0, problem_of_table) if problem_of_table is not None else None
    if set(map(type, seqs)) != {int}:
        index = next(index for index, seq in enumerate(seqs) if not isinstance(seq, int))
        problem = problem or (index, "the seq of its row is no integer, or the row says another chain than its index")
        seqs = tuple(seq if isinstance(seq, int | float) else _SEQ_END for seq in seqs)
    if problem is None and (keys.count(None) < len(keys) or checks.count(None) < len(checks)):
        problem = _problem_of_keys(hashes, keys, checks)
    return AuditBatch(seqs, _texts(hashes), statements, payloads, _macs(macs), problem)


def _problem_of_keys(hashes: Sequence[Any], keys: Sequence[Any], checks: Sequence[Any]) -> tuple[int, str] | None:
    for index, (key, check) in enumerate(zip(keys, checks, strict=True)):
        if key is None and check is None:
            continue
        if key is None or check is None or sha256(b"%b\n%b" % (key, hashes[index])).hexdigest().encode() != check:
            return index, "the idempotency key is not the one that was stored with the entry"
    return None


def _problem_of_table(connection: sqlite3.Connection) -> str | None:
    """The problem of a table's definition: an altered one may not generate the queried columns from the statements."""
    row = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'entries'").fetchone()
    if row is None or row[0].decode(errors="replace") != ENTRIES_TABLE:
        return "the definition of the table of entries was altered"
    return None


def _texts(values: Sequence[Any]) -> Sequence[str]:
    try:
        texts = b"\n".join(values).decode().split("\n")
    except (TypeError, UnicodeDecodeError):
        texts = []
    return texts if len(texts) == len(values) else [_text(value) for value in values]


def _macs(values: Sequence[Any]) -> Sequence[str | None]:
    return _texts(values) if None not in values else [_mac(value) for value in values]


def _mac(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _target_seq(statement: bytes) -> object:
    try:
        said: Any = parse_json(statement)
        return said["body"]["target_seq"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _fields_of(statement: bytes) -> dict[str, object]:
    try:
        fields: Any = parse_json(statement)
    except (ValueError, TypeError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _seq_in(said: dict[str, object]) -> int:
    seq = said.get("seq")
    return seq if isinstance(seq, int) else 0
