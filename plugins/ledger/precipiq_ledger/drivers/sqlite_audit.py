"""Raw reading of an SQLite file for verification, in whatever process: its own connection, and no index is trusted.

Imports little, so that a verifying process starts fast.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from precipiq_core.contracts.chain import Chain
from precipiq_core.contracts.entry_store import AuditBatch
from precipiq_core.database.sqlite_connection import open_for_reading, translating
from precipiq_ledger.drivers.sqlite_schema import ENTRIES_TABLE

_FILED = "org_id = ? AND environment = ?"
_ROWS = f"""
SELECT seq, hash, statement, payload, idempotency_key, idempotency_check FROM entries
WHERE {_FILED} AND seq > ? AND seq <= ? ORDER BY seq
"""  # noqa: S608
_REDACTIONS = f"""
SELECT statement FROM entries
WHERE {_FILED} AND kind = 'redaction' AND redacts_seq IN (SELECT value FROM json_each(?))
"""  # noqa: S608
_MAYBE_REDACTIONS = f'SELECT statement FROM entries WHERE {_FILED} AND instr(statement, \'"kind":"redaction"\')'  # noqa: S608
_FIRST_GROUP = "SELECT rowid, org_id, environment FROM entries ORDER BY org_id, environment LIMIT 1"
_OF_ROW = "(SELECT org_id, environment FROM entries WHERE rowid = :row)"
_NEXT_GROUP = f"""
SELECT rowid, org_id, environment FROM entries WHERE (org_id, environment) > {_OF_ROW}
ORDER BY org_id, environment LIMIT 1
"""  # noqa: S608
_ENDS_OF_GROUP = f"""
SELECT seq, statement FROM entries WHERE (org_id, environment) = {_OF_ROW} AND seq IN (
    (SELECT min(seq) FROM entries WHERE (org_id, environment) = {_OF_ROW}),
    (SELECT max(seq) FROM entries WHERE (org_id, environment) = {_OF_ROW})
)
"""  # noqa: S608
_SEQ_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SqliteAuditor:
    """See ``EntryAuditor``. Raises ``Unavailable`` when the file cannot be read. ``path``: the database file."""

    path: Path
    busy_timeout_s: float

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        """See ``EntryAuditor.batches``: one snapshot from beginning to end."""
        last = _SEQ_END if through_seq is None else through_seq
        with self._opened() as connection:
            problem = _problem_of_table(connection)
            cursor = connection.execute(_ROWS, (chain.org_id, chain.environment, after_seq, last))
            while rows := cursor.fetchmany(size):
                yield _batch(rows, problem)

    def last_seq(self, chain: Chain) -> int:
        """See ``EntryAuditor.last_seq``."""
        sql = f"SELECT coalesce(max(seq), 0) FROM entries WHERE {_FILED}"  # noqa: S608
        return int(self._fetch(sql, chain.org_id, chain.environment)[0][0])

    def hash_at(self, chain: Chain, seq: int) -> str | None:
        """See ``EntryAuditor.hash_at``."""
        sql = f"SELECT hash FROM entries WHERE {_FILED} AND seq = ?"  # noqa: S608
        rows = self._fetch(sql, chain.org_id, chain.environment, seq)
        return _text(rows[0][0]) if rows else None

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[bytes]:
        """See ``EntryAuditor.redactions``."""
        filed = (chain.org_id, chain.environment)
        try:
            rows = self._fetch(_REDACTIONS, *filed, orjson.dumps(list(target_seqs)).decode())
        except sqlite3.OperationalError:  # a damaged statement, which SQLite cannot take a value from
            wanted = set(target_seqs)
            rows = [row for row in self._fetch(_MAYBE_REDACTIONS, *filed) if _target_seq(row[0]) in wanted]
        return [row[0] for row in rows]

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        """See ``EntryAuditor.stray``: looks at both ends of every other group of rows that are filed alike."""
        with self._opened() as connection:
            group = connection.execute(_FIRST_GROUP).fetchone()
            while group is not None:
                row, org_id, environment = group[0], _text(group[1]), _text(group[2])
                if (org_id, environment) != (chain.org_id, chain.environment):
                    for seq, statement in connection.execute(_ENDS_OF_GROUP, {"row": row}).fetchall():
                        if _said_chain(statement) == (chain.org_id, chain.environment):
                            return int(seq), f"it is filed under organisation {org_id!r}, environment {environment!r}"
                group = connection.execute(_NEXT_GROUP, {"row": row}).fetchone()
        return None

    def _fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._opened() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with translating(), closing(open_for_reading(self.path, self.busy_timeout_s)) as connection:
            connection.text_factory = bytes
            yield connection


def _batch(rows: list[tuple[Any, ...]], problem_of_table: str | None) -> AuditBatch:
    seqs, hashes, statements, payloads, keys, checks = zip(*rows, strict=True)
    problem = (0, problem_of_table) if problem_of_table is not None else None
    if problem is None and (any(keys) or any(checks)):
        problem = _problem_of_keys(hashes, keys, checks)
    return AuditBatch(seqs, _texts(hashes), statements, payloads, problem)


def _problem_of_keys(hashes: Sequence[Any], keys: Sequence[Any], checks: Sequence[Any]) -> tuple[int, str] | None:
    for index, (key, check) in enumerate(zip(keys, checks, strict=True)):
        if key is None and check is None:
            continue
        if key is None or check is None or sha256(b"%b\n%b" % (key, hashes[index])).hexdigest().encode() != check:
            return index, "the idempotency key is not the one that was stored with the entry"
    return None


def _problem_of_table(connection: sqlite3.Connection) -> str | None:
    """What is queried is generated from the statements only as long as the table's definition says so."""
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


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _target_seq(statement: bytes) -> object:
    try:
        return json.loads(statement)["body"]["target_seq"]
    except (ValueError, KeyError, TypeError):
        return None


def _said_chain(statement: bytes) -> tuple[object, object] | None:
    try:
        fields = json.loads(statement)
        return fields["org_id"], fields["environment"]
    except (ValueError, KeyError, TypeError):
        return None
