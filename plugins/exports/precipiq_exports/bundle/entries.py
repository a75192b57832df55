"""The pass that writes the raw entries and counts them, and the entries outside of the range that explain some."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from precipiq_exports.bundle.rows import Row, Rows, line_of, redaction_line

NamedEntry: TypeAlias = dict[str, Any]
"""An entry as the manifest names it: ``seq`` and a hash."""


class Context:
    """Lines by seq, each once, in a database that moves to a temporary file above some megabytes."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE lines (seq INTEGER PRIMARY KEY, line BLOB)")
        self._database.execute("BEGIN")
        self.count = 0

    def add(self, seq: int, line: bytes) -> None:
        cursor = self._database.execute("INSERT OR IGNORE INTO lines VALUES (?, ?)", (seq, line))
        self.count += cursor.rowcount

    def lines(self) -> Iterator[bytes]:
        for (line,) in self._database.execute("SELECT line FROM lines ORDER BY seq"):
            yield line

    def close(self) -> None:
        self._database.close()


@dataclass
class EntriesPass:
    """``first`` and ``last``: of the entries written; None without entries, or when that row is no entry.

    ``gaps``: places where the entry after is not the next one of the chain.
    """

    rows: Rows
    signing_key_seq: int | None
    context: Context = field(default_factory=Context)
    by_kind: Counter[str] = field(default_factory=Counter)
    count: int = 0
    damaged: int = 0
    redacted: int = 0
    gaps: int = 0
    first: NamedEntry | None = None
    last: NamedEntry | None = None
    _last_seq: int | None = None

    def lines(self) -> Iterator[bytes]:
        """The lines of the file; counts are complete at its end."""
        for rows in self.rows.batches():
            for redaction in self.rows.redactions(rows).values():
                if not self.rows.holds(redaction.seq):
                    self.context.add(redaction.seq, redaction_line(redaction))
            for row in rows:
                line = line_of(row)
                self._count(row, is_damaged=line.startswith(b'{"damaged"'))
                yield line

    def context_lines(self) -> Iterator[bytes]:
        """The entries that explain the lines, by seq; the caller reads them after :meth:`lines`."""
        seq = self.signing_key_seq
        announcement = None if seq is None or self.rows.holds(seq) else self.rows.at(seq)
        if announcement is not None:
            self.context.add(announcement.seq, line_of(announcement))
        return self.context.lines()

    def _count(self, row: Row, *, is_damaged: bool) -> None:
        self.count += 1
        parts = row.parts
        if parts is None or is_damaged:
            self.damaged += 1
            self._last_seq = self.last = None
            return
        seq = int(parts.seq)
        self.by_kind[parts.kind.decode()] += 1
        self.redacted += row.is_erased
        self.gaps += self._last_seq is not None and seq > self._last_seq + 1
        if self.first is None:
            self.first = {"seq": seq, "prev_hash": parts.prev_hash.decode()}
        self.last = {"seq": seq, "hash": row.hash}
        self._last_seq = seq
