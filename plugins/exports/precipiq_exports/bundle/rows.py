"""The store's rows of a bundle's range: reading, filtering, and writing as lines of raw entries."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from precipiq_chain.chain_format import StatementParts, parse_json, statement_parts
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch, EntryAuditor
from precipiq_exports.bundle.spec import BundleSpec
from precipiq_exports.bundle.verify import wanted_of

Progress = Callable[[int], None]

_DECISION = b"decision"

_RANGE_ENTRIES = 50_000
"""Entries in one read: a store may hold a read's snapshot open, so no read covers a whole long chain."""

_HASH = re.compile(r"[0-9a-f]{64}")
_SALT = re.compile(rb',"salt":"[0-9a-f]{32}"\}')
_SALT_BYTES = len(',"salt":""}') + 32


class Row(NamedTuple):
    """A row of the store. ``parts``: of its statement, None when the row is no entry of version 1."""

    seq: int
    hash: str
    statement: bytes
    payload: bytes | None
    parts: StatementParts | None

    @property
    def is_erased(self) -> bool:
        return self.payload is None and self.parts is not None and self.parts.payload_hash != b"null"


@dataclass(frozen=True, slots=True)
class Redaction:
    """A redaction entry: what it says, and its statement."""

    seq: int
    id: str
    statement: bytes


class Rows:
    """The rows of a spec's range, in order; each pass reads them anew."""

    def __init__(self, auditor: EntryAuditor, spec: BundleSpec, progress: Progress) -> None:
        self.auditor = auditor
        self.chain: Chain = spec.chain
        self._spec = spec
        self._wanted = wanted_of(spec.filters)
        self._progress = progress

    def batches(self) -> Iterator[list[Row]]:
        """The rows that pass the filters. A row that is no entry always passes, since it might be a wanted one."""
        spec = self._spec
        for after in range(spec.after_seq, spec.through_seq, _RANGE_ENTRIES):
            through = min(after + _RANGE_ENTRIES, spec.through_seq)
            for batch in self.auditor.batches(self.chain, after, through, spec.batch_entries):
                rows = _rows(batch)
                yield [row for row in rows if self._is_wanted(row)] if self._wanted else rows
                self._progress(len(rows))

    def holds(self, seq: int) -> bool:
        """Whether the entry at that seq, of any kind, is among the rows."""
        return not self._wanted and self._spec.after_seq < seq <= self._spec.through_seq

    def at(self, seq: int) -> Row | None:
        """One entry, inside or outside of the range."""
        for batch in self.auditor.batches(self.chain, seq - 1, seq, 1):
            return _rows(batch)[0]
        return None

    def redactions(self, rows: Sequence[Row]) -> dict[int, Redaction]:
        """By seq of the entry whose payload is gone: the first redaction entry that says so."""
        erased = {row.seq: row.hash for row in rows if row.is_erased}
        found: dict[int, Redaction] = {}
        for statement, _ in self.auditor.redactions(self.chain, list(erased)) if erased else ():
            parts = statement_parts(statement)
            body = {} if parts is None else _body(parts)
            target, target_hash = body.get("target_seq"), body.get("target_hash")
            if parts is None or not isinstance(target, int) or target_hash != erased.get(target, ""):
                continue
            redaction = Redaction(int(parts.seq), parts.id.decode(), statement)
            if target not in found or redaction.seq < found[target].seq:
                found[target] = redaction
        return found

    def _is_wanted(self, row: Row) -> bool:
        if row.parts is None:
            return True
        if row.parts.kind != _DECISION:
            return False
        body = _body(row.parts)
        return all(body.get(name) == value for name, value in self._wanted.items())


def line_of(row: Row) -> bytes:
    """A raw entry: hash, payload, salt and statement in this order, the texts exactly as they were hashed."""
    if row.parts is None or not _is_json(row.statement, row.payload):
        return _damaged_line(row)
    if row.payload is None:
        return b'{"hash":"%b","payload":null,"salt":null,"statement":%b}\n' % (row.hash.encode(), row.statement)
    # The hashed text, {"payload":...,"salt":"..."}, has the members of the line in its order.
    return b'{"hash":"%b",%b,"statement":%b}\n' % (row.hash.encode(), row.payload[1:-1], row.statement)


def redaction_line(redaction: Redaction) -> bytes:
    """As :func:`line_of`, for an entry that never has a payload."""
    digest = sha256(redaction.statement).hexdigest()
    return line_of(Row(redaction.seq, digest, redaction.statement, None, statement_parts(redaction.statement)))


def _damaged_line(row: Row) -> bytes:
    """The store's content in place of an entry, so that nothing is hidden; verifiers report it as a failure."""
    fields = {
        "damaged": True,
        "seq": row.seq,
        "hash": row.hash,
        "statement_base64": base64.b64encode(row.statement).decode(),
        "payload_base64": None if row.payload is None else base64.b64encode(row.payload).decode(),
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _rows(batch: AuditBatch) -> list[Row]:
    columns = zip(batch.seqs, batch.hashes, batch.statements, batch.payloads, strict=True)
    return [
        Row(
            seq,
            stored,
            statement,
            payload,
            statement_parts(statement) if _is_in_form(stored, statement, payload) else None,
        )
        for seq, stored, statement, payload in columns
    ]


def _is_in_form(stored_hash: str, statement: bytes, payload: bytes | None) -> bool:
    """Whether the texts fit in one line; whether they are JSON is checked when the line is made."""
    if payload is not None and not (
        payload.startswith(b'{"payload":')
        and _SALT.fullmatch(payload, len(payload) - _SALT_BYTES)
        and b"\n" not in payload
    ):
        return False
    return b"\n" not in statement and _HASH.fullmatch(stored_hash) is not None


def _body(parts: StatementParts) -> Mapping[str, Any]:
    """The members of the body; none when the body cannot be read."""
    try:
        body = parse_json(parts.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_json(statement: bytes, payload: bytes | None) -> bool:
    try:
        parse_json(statement)
        salted = None if payload is None else parse_json(payload)
        return payload is None or (isinstance(salted, dict) and salted.keys() == {"payload", "salt"})
    except ValueError:
        return False
