"""Raw reading of the files for verification, in whatever process. Trusts nothing but the bytes it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from folder_database.entries.chain_files import chains_in, folder_of, read_rows
from precipiq_chain.chain_format import Statement, parse_statement
from precipiq_contracts.chain import Chain, Entry
from precipiq_contracts.entry_store import AuditBatch


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it lies there. ``damage``: what is wrong with it; ``entry`` is then whatever could be read."""

    entry: Entry
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class FolderAuditor:
    """See ``EntryAuditor``."""

    folder: Path

    def batches(self, chain: Chain, after_seq: int, through_seq: int | None, size: int) -> Iterator[AuditBatch]:
        """See ``EntryAuditor.batches``. From the start, also what lies before entry 1 and cannot be rightly there."""
        wanted = (
            row
            for row in self._rows(chain, after_seq)
            if (after_seq == 0 or row.entry.seq > after_seq) and (through_seq is None or row.entry.seq <= through_seq)
        )
        while rows := list(islice(wanted, size)):
            yield _batch(rows)

    def last_seq(self, chain: Chain) -> int:
        """See ``EntryAuditor.last_seq``."""
        last_file = max(map(_first_seq, self._files(chain)), default=0)
        return max((row.entry.seq for row in self._rows(chain, last_file)), default=0)

    def hashes_at(self, chain: Chain, seqs: Sequence[int]) -> Sequence[str | None]:
        """See ``EntryAuditor.hashes_at``."""
        wanted = set(seqs)
        rows = self._rows(chain, min(wanted, default=1) - 1) if wanted else ()
        hashes = {row.entry.seq: row.entry.hash for row in rows if row.entry.seq in wanted}
        return [hashes.get(seq) for seq in seqs]

    def redactions(self, chain: Chain, target_seqs: Sequence[int]) -> Sequence[tuple[bytes, str | None]]:
        """See ``EntryAuditor.redactions``."""
        targets = set(target_seqs)
        entries = (row.entry for row in self._rows(chain, 0) if b'"kind":"redaction"' in row.entry.statement)
        said = ((entry, _said(entry)) for entry in entries)
        return [
            (entry.statement, entry.mac)
            for entry, it in said
            if it is not None and it.body.get("target_seq") in targets
        ]

    def stray(self, chain: Chain) -> tuple[int, str] | None:
        """See ``EntryAuditor.stray``: looks at every entry of every other chain."""
        for other in chains_in(self.folder):
            for row in self._rows(other, 0) if other != chain else ():
                said = _said(row.entry)
                if said is not None and (said.org_id, said.environment) == (chain.org_id, chain.environment):
                    return row.entry.seq, f"it lies in {folder_of(self.folder, other).name}"
        return None

    def _files(self, chain: Chain) -> list[Path]:
        return sorted(folder_of(self.folder, chain).glob("*.json"), key=_first_seq)

    def _rows(self, chain: Chain, after_seq: int) -> Iterator[Row]:
        """In the files' order, without files that end at or before that entry."""
        files = self._files(chain)
        ends = [*map(_first_seq, files[1:]), None]
        for path, end in zip(files, ends, strict=False):
            if after_seq == 0 or end is None or end > after_seq + 1:
                yield from _rows_in(path, chain)


def _first_seq(path: Path) -> int:
    """What the file's name says; one that is no number comes before all others."""
    try:
        return int(path.stem)
    except ValueError:
        return -1


def _rows_in(path: Path, chain: Chain) -> Iterator[Row]:
    first_seq = _first_seq(path)
    try:
        entries = read_rows(path, chain)
    except ValueError as error:
        yield Row(Entry(chain, first_seq, "", b"", None), str(error))
        return
    for seq, entry in enumerate(entries, first_seq):
        yield Row(entry, None if entry.seq == seq else f"it lies where entry {seq} belongs, in {path.name}")


def _batch(rows: Sequence[Row]) -> AuditBatch:
    problems = [(index, row.damage) for index, row in enumerate(rows) if row.damage is not None]
    return AuditBatch(
        [row.entry.seq for row in rows],
        [row.entry.hash for row in rows],
        [row.entry.statement for row in rows],
        [row.entry.payload for row in rows],
        [row.entry.mac for row in rows],
        problems[0] if problems else None,
    )


def _said(entry: Entry) -> Statement | None:
    try:
        return parse_statement(entry.statement)
    except (ValueError, TypeError, RecursionError):
        return None
