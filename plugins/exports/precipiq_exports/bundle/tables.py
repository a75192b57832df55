"""The passes that list the entries of some kinds with their fields side by side, as JSON lines and for spreadsheets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson

from precipiq_chain.chain_format import parse_json, split_payload
from precipiq_chain.entry_record import RecordFields, entry_record_json
from precipiq_contracts.chain import Entry
from precipiq_exports.bundle import verify
from precipiq_exports.bundle.rows import Row, Rows
from precipiq_exports.bundle.spec import Table


@dataclass
class TablePass:
    """One list, and how many rows it has."""

    rows: Rows
    table: Table
    count: int = 0

    def json_lines(self) -> Iterator[bytes]:
        """One record a line, in the shape of the REST interface."""
        table = self.table
        fields = RecordFields(table.body_fields, table.payload_fields, shows_kind=len(table.kinds) > 1)

        def record(row: Row, redaction_id: str | None) -> bytes:
            entry = Entry(self.rows.chain, row.seq, row.hash, row.statement, row.payload)
            return entry_record_json(entry, fields, redaction_id, row.parts) + b"\n"

        return self._lines(record)

    def csv_lines(self) -> Iterator[bytes]:
        """RFC 4180, with a byte-order mark, by which Excel knows UTF-8, and a header; see ``verify.csv_cell``."""
        table = verify.Table(self.table.kinds, self.table.body_fields, self.table.payload_fields)

        def cells(row: Row, redaction_id: str | None) -> bytes:
            before, after = table.csv_row(_slice_entry(row))
            return f"{before}{redaction_id or ''}{after}".encode()

        yield (verify.BYTE_ORDER_MARK + table.csv_header()).encode()
        yield from self._lines(cells)

    def _lines(self, line_of: Callable[[Row, str | None], bytes]) -> Iterator[bytes]:
        """``line_of`` gets the id of the redaction entry of an erased payload."""
        kinds = {kind.encode() for kind in self.table.kinds}
        for rows in self.rows.batches():
            rows = [row for row in rows if row.parts is not None and row.parts.kind in kinds]
            redactions = self.rows.redactions(rows)
            for row in rows:
                redaction = redactions.get(row.seq)
                try:
                    line = line_of(row, None if redaction is None else redaction.id)
                except verify.BAD_JSON:  # an intruder's row, which the raw entries show
                    continue
                self.count += 1
                yield line


def _slice_entry(row: Row) -> verify.Entry:
    """The row as the verifier's entry, with the fields that a list shows."""
    assert row.parts is not None
    actor, body_text, environment, id, kind, org_id, payload_hash, prev_hash, seq, timestamp = row.parts
    text, salt = split_payload(row.payload) if row.payload is not None else (None, None)
    return verify.Entry(
        row.hash,
        "",
        None if text is None else "",
        {} if text is None else _members(text),
        salt,
        _members(body_text),
        actor.decode(),
        "",
        environment.decode(),
        id.decode(),
        kind.decode(),
        org_id.decode(),
        None if payload_hash == b"null" else payload_hash[1:-1].decode(),
        prev_hash.decode(),
        int(seq),
        timestamp.decode(),
    )


def _members(text: bytes) -> verify.Members:
    """As ``verify.members_of``, by a faster parser where it writes what it reads; without the texts of strings."""
    values = parse_json(text)
    if not isinstance(values, dict):
        return {}
    try:
        is_written_alike = orjson.dumps(values) == text
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        is_written_alike = False
    if not is_written_alike:  # a number that orjson would write another way
        return verify.members_of(text.decode())
    return {
        name: (value, "" if value is None or type(value) is str else orjson.dumps(value).decode())
        for name, value in values.items()
    }
