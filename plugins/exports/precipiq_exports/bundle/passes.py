"""The passes over a range of entries: one for the raw entries, one for each list. Each yields the lines of its file."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, Any, NamedTuple

import orjson

from precipiq_core.chain_format import StatementParts, parse_json, statement_parts
from precipiq_core.contracts.chain import Entry
from precipiq_core.contracts.entry_store import AuditBatch, EntryAuditor
from precipiq_core.entry_record import PROOF_FIELDS, entry_record_json
from precipiq_exports.bundle.lines import cell, damaged_line, entry_line
from precipiq_exports.bundle.spec import BundleSpec, Table

Progress = Callable[[int], None]

_RANGE_ENTRIES = 50_000  # a store may keep what it reads from in one piece: never for the whole of a long chain
_SPOOLED_BYTES = 4 * 1024 * 1024
_DECISION = b"decision"
_DAMAGED = "damaged"
_ERASURE = ("redacted", "redaction_id")
_CSV_CHARACTERS = 128 * 1024


class Row(NamedTuple):
    """An entry as the store holds it; ``parts``: of its statement, None when it is not as it was sealed."""

    seq: int
    hash: str
    statement: bytes
    payload: bytes | None
    parts: StatementParts | None

    @property
    def is_missing_payload(self) -> bool:
        return self.payload is None and self.parts is not None and self.parts.payload_hash != b"null"


class Source:
    """The rows of a spec's range, batch by batch."""

    def __init__(self, auditor: EntryAuditor, spec: BundleSpec, progress: Progress) -> None:
        self.auditor = auditor
        self.spec = spec
        self._progress = progress

    def batches(self) -> Iterator[list[Row]]:
        """Only rows that the spec's filters let through."""
        spec = self.spec
        for after in range(spec.after_seq, spec.through_seq, _RANGE_ENTRIES):
            through = min(after + _RANGE_ENTRIES, spec.through_seq)
            for batch in self.auditor.batches(spec.chain, after, through, spec.batch_entries):
                yield [row for row in _rows(batch) if self._is_wanted(row)]
                self._progress(len(batch.seqs))

    def row(self, seq: int) -> Row | None:
        """One entry, whether it is in the range or not."""
        for batch in self.auditor.batches(self.spec.chain, seq - 1, seq, 1):
            return _rows(batch)[0]
        return None

    def redactions(self, rows: Sequence[Row]) -> list[bytes]:
        """Statements of the redaction entries that explain payloads missing from these rows."""
        seqs = [row.seq for row in rows if row.is_missing_payload]
        return list(dict.fromkeys(self.auditor.redactions(self.spec.chain, seqs))) if seqs else []

    def _is_wanted(self, row: Row) -> bool:
        wanted = self.spec.wanted
        if not wanted:
            return True
        if row.parts is None or row.parts.kind != _DECISION:
            return False
        body = _object(row.parts.body)
        return all(body.get(name) == value for name, value in wanted.items())


@dataclass
class EntriesPass:
    """Writes the raw entries, and counts them. ``first`` and ``last``: of those written."""

    source: Source
    counts: Counter[str] = field(default_factory=Counter)
    redacted: int = 0
    first: Row | None = None
    last: Row | None = None
    context: IO[bytes] = field(default_factory=lambda: tempfile.SpooledTemporaryFile(_SPOOLED_BYTES))  # noqa: SIM115
    context_count: int = 0

    def lines(self) -> Iterator[bytes]:
        for rows in self.source.batches():
            self._explain(rows)
            for row in rows:
                self.first = self.first or row
                self.last = row
                self.counts[_DAMAGED if row.parts is None else row.parts.kind.decode()] += 1
                self.redacted += row.is_missing_payload
                yield _line(row)

    def context_lines(self) -> Iterator[bytes]:
        """Entries that are not among the raw ones but explain some of them; to be asked for after :meth:`lines`."""
        announced_seq = self.source.spec.signing_key.announced_seq
        announced = None if announced_seq is None or self._holds(announced_seq) else self.source.row(announced_seq)
        if announced is not None:
            self.context_count += 1
            yield _line(announced)
        self.context.seek(0)
        yield from self.context

    def _explain(self, rows: Sequence[Row]) -> None:
        for statement in sorted(self.source.redactions(rows), key=_target_seq):  # however many are read at once
            parts = statement_parts(statement)
            seq = 0 if parts is None else int(parts.seq)
            if parts is not None and not self._holds(seq):
                self.context.write(entry_line(seq, sha256(statement).hexdigest(), statement, None))
                self.context_count += 1

    def _holds(self, seq: int) -> bool:
        spec = self.source.spec
        return not spec.wanted and spec.after_seq < seq <= spec.through_seq


@dataclass
class TablePass:
    """Writes one list, and counts its rows."""

    source: Source
    table: Table
    count: int = 0

    def json_lines(self) -> Iterator[bytes]:
        """One record a line, in the shape of the REST interface."""
        for record in self._records():
            yield record + b"\n"

    def csv_lines(self) -> Iterator[bytes]:
        """RFC 4180, with a header; objects as JSON text."""
        kind = ("kind",) if self._has_kinds else ()
        columns = (*PROOF_FIELDS, *kind, *_ERASURE, *self.table.body_fields, *self.table.payload_fields)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(columns)
        for record in self._records():
            fields: Any = parse_json(record)
            writer.writerow([cell(fields.get(name)) for name in columns])
            if text.tell() > _CSV_CHARACTERS:
                yield text.getvalue().encode()
                text.seek(0)
                text.truncate()
        yield text.getvalue().encode()

    @property
    def _has_kinds(self) -> bool:
        return len(self.table.kinds) > 1

    def _records(self) -> Iterator[bytes]:
        kinds = {kind.encode() for kind in self.table.kinds}
        for batch in self.source.batches():
            rows = [row for row in batch if row.parts is not None and row.parts.kind in kinds]
            erased = self._redaction_ids(rows)
            for row in rows:
                entry = Entry(self.source.spec.chain, row.seq, row.hash, row.statement, row.payload)
                redaction_id = erased.get(row.seq)
                record = entry_record_json(entry, self.table.payload_fields, redaction_id, with_kind=self._has_kinds)
                if _is_json(record):  # else the store was damaged: the raw entries show it, and verifiers name it
                    self.count += 1
                    yield record

    def _redaction_ids(self, rows: Sequence[Row]) -> dict[int, str]:
        found: dict[int, str] = {}
        for statement in self.source.redactions(rows):
            parts = statement_parts(statement)
            if parts is not None:
                found.setdefault(_target_seq(statement), parts.id.decode())
        return found


def _rows(batch: AuditBatch) -> list[Row]:
    columns = zip(batch.seqs, batch.hashes, batch.statements, batch.payloads, strict=True)
    return [Row(*row, statement_parts(row[2])) for row in columns]


def _target_seq(redaction: bytes) -> int:
    parts = statement_parts(redaction)
    target = None if parts is None else _object(parts.body).get("target_seq")
    return target if isinstance(target, int) else 0


def _line(row: Row) -> bytes:
    if not _is_json(row.statement) or (row.payload is not None and not _is_json(row.payload)):
        return damaged_line(row.seq, row.hash, row.statement, row.payload)
    return entry_line(row.seq, row.hash, row.statement, row.payload)


def _object(text: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True
