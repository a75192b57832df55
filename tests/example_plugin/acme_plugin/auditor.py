"""Raw reading of the files for verification, in whatever process. Trusts nothing but the bytes it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from acme_plugin.entry_file import chains_in, file_of, read_line, read_lines
from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import AuditBatch
from precipiq_contracts.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Row:
    """A line by what verification asks for first."""

    seq: int
    offset: int
    size: int
    redacts_seq: object


class JsonlAuditor:
    """See ``EntryAuditor``. Reads a file from end to end once, and again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Chain, tuple[tuple[int, int, int], list[Row]]] = {}

    def __reduce__(self) -> tuple[type[JsonlAuditor], tuple[Path]]:
        return JsonlAuditor, (self._folder,)

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        """See ``EntryAuditor.batches``. From the start, also what stands before entry 1 and cannot be rightly there."""
        with self._opened(chain) as (file, rows):
            wanted = [
                row
                for row in rows
                if (after_seq == 0 or row.seq > after_seq) and (through_seq is None or row.seq <= through_seq)
            ]
            for start in range(0, len(wanted), size):
                yield _batch(file, chain, wanted[start : start + size])

    def last_seq(self, chain: Chain) -> int:
        """See ``EntryAuditor.last_seq``."""
        with self._opened(chain) as (_, rows):
            return rows[-1].seq if rows else 0

    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        """See ``EntryAuditor.hashes_at``."""
        wanted = set(seqs)
        batches = self.batches(chain, min(wanted, default=1) - 1, max(wanted, default=0), 1000)
        hashes = {seq: hash_ for batch in batches for seq, hash_ in zip(batch.seqs, batch.hashes, strict=True)}
        return [hashes.get(seq) for seq in seqs]

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        """See ``EntryAuditor.redactions``."""
        targets = set(target_seqs)
        with self._opened(chain) as (file, rows):
            wanted = [row for row in rows if isinstance(row.redacts_seq, int) and row.redacts_seq in targets]
            batch = _batch(file, chain, wanted)
            return list(zip(batch.statements, batch.macs, strict=True))

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        """See ``EntryAuditor.stray``: looks at every line of every other chain's file."""
        for other in chains_in(self._folder):
            if other == chain:
                continue
            with file_of(self._folder, other).open("rb") as file:
                for line in read_lines(file, other):
                    said = _said(line.entry.statement)
                    if (said.get("org_id"), said.get("environment")) == (chain.org_id, chain.environment):
                        return line.entry.seq, f"it lies in {file_of(self._folder, other).name}"
        return None

    @contextmanager
    def _opened(self, chain: Chain) -> Iterator[tuple[BinaryIO, list[Row]]]:
        path = file_of(self._folder, chain)
        try:
            if not path.exists():
                path = Path(os.devnull)
            with path.open("rb") as file:
                yield file, self._rows(file, chain)
        except OSError as error:
            raise Unavailable(f"{path.name} cannot be read: {error.strerror}") from error

    def _rows(self, file: BinaryIO, chain: Chain) -> list[Row]:
        state = os.fstat(file.fileno())
        mark = (state.st_ino, state.st_size, state.st_mtime_ns)
        known = self._seen.get(chain)
        if known is not None and known[0] == mark:
            return known[1]
        rows = [
            Row(line.entry.seq, line.offset, line.size, _redacts_seq(line.entry.statement))
            for line in read_lines(file, chain)
        ]
        rows.sort(key=lambda row: row.seq)
        self._seen[chain] = (mark, rows)
        return rows


def _batch(file: BinaryIO, chain: Chain, rows: Sequence[Row]) -> AuditBatch:
    lines = [read_line(os.pread(file.fileno(), row.size, row.offset), chain, row.offset, row.seq) for row in rows]
    problems = [(index, line.damage) for index, line in enumerate(lines) if line.damage is not None]
    return AuditBatch(
        [row.seq for row in rows],
        [line.entry.hash for line in lines],
        [line.entry.statement for line in lines],
        [line.entry.payload for line in lines],
        [line.entry.mac for line in lines],
        problems[0] if problems else None,
    )


def _redacts_seq(statement: bytes) -> object:
    if b'"kind":"redaction"' not in statement:
        return None
    body = _said(statement).get("body")
    return body.get("target_seq") if isinstance(body, dict) else None


def _said(statement: bytes) -> dict[str, object]:
    try:
        parsed = parse_statement(statement)
    except (ValueError, TypeError, RecursionError):
        return {}
    return {"org_id": parsed.org_id, "environment": parsed.environment, "body": parsed.body}
