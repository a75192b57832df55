"""A chain is a folder, and each append a file in it: ``<seq of its first entry>.json``, a list of rows.

A file has its name only when it is whole and on disk, so a crash leaves nothing to be cut off: what cannot be read was
damaged later. It stays as it is, for verification to find, and nothing is appended after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from folder_database.files import flush_folder, make_folder, write_whole
from precipiq_chain.chain_format import head_of, parse_statement
from precipiq_contracts.chain import ENVIRONMENTS, Chain, Entry, Head
from precipiq_contracts.errors import Unavailable


def folder_of(store: Path, chain: Chain) -> Path:
    """Reversible, and never one folder for two chains, also where upper and lower case are the same name."""
    return store / f"{chain.org_id.encode().hex()}.{chain.environment}"


def chains_in(store: Path) -> list[Chain]:
    """The chains that have a folder."""
    found: list[Chain] = []
    for path in sorted(store.glob("*.*")):
        name, _, environment = path.name.partition(".")
        found.extend(Chain(bytes.fromhex(name).decode(), known) for known in ENVIRONMENTS if known == environment)
    return found


def read_rows(path: Path, chain: Chain) -> list[Entry]:
    """The entries in a file, as they stand there. Raises ``ValueError`` when it does not hold such rows."""
    try:
        return [
            Entry(
                chain,
                int(seq),
                str(hash_),
                statement.encode(),
                None if payload is None else payload.encode(),
                key and str(key),
                mac[0] if mac else None,
            )
            for seq, hash_, statement, payload, key, *mac in json.loads(path.read_bytes())
        ]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} does not hold what was written") from error


def write_rows(path: Path, entries: Sequence[Entry]) -> None:
    """Write a file of entries, or put it in the place of one."""
    rows = [
        (entry.seq, entry.hash, entry.statement.decode(), _text(entry.payload), entry.idempotency_key, entry.mac)
        for entry in entries
    ]
    write_whole(path, json.dumps(rows).encode())


def _text(payload: bytes | None) -> str | None:
    return None if payload is None else payload.decode()


class ChainFiles:
    """A chain's files, and what is known of them by heart: head, kinds, ids and keys. For one thread."""

    def __init__(self, store: Path, chain: Chain) -> None:
        self._path = folder_of(store, chain)
        self._chain = chain
        self._first_seqs: list[int] = []
        self._damage: str | None = None
        self.head: Head | None = None
        self.kinds: list[str] = []
        self.seq_of_id: dict[str, int] = {}
        self.seq_of_key: dict[str, int] = {}

    def refresh(self) -> ChainFiles:
        """Learn what was appended since, by whatever process."""
        while self._damage is None and (path := self._file(len(self.kinds) + 1)).exists():
            try:
                for entry in read_rows(path, self._chain):
                    self._learn(entry, int(path.stem))
            except ValueError as error:
                self._damage = str(error)
        return self

    def _file(self, first_seq: int) -> Path:
        return self._path / f"{first_seq}.json"

    def _learn(self, entry: Entry, first_seq: int) -> None:
        statement = parse_statement(entry.statement)
        if entry.seq != len(self.kinds) + 1:
            raise ValueError(f"entry {entry.seq} lies where entry {len(self.kinds) + 1} belongs")
        self._first_seqs.append(first_seq)
        self.head = head_of(entry)
        self.kinds.append(statement.kind)
        self.seq_of_id[statement.id] = entry.seq
        if entry.idempotency_key is not None:
            self.seq_of_key[entry.idempotency_key] = entry.seq

    def entries(self, seqs: Iterable[int]) -> Iterator[Entry]:
        """Those entries, as they lie in the files now. Raises ``Unavailable`` for one that was damaged."""
        first_seq, rows = 0, list[Entry]()
        for seq in seqs:
            if self._first_seqs[seq - 1] != first_seq:
                first_seq = self._first_seqs[seq - 1]
                rows = self._read(first_seq)
            if seq - first_seq >= len(rows):
                raise Unavailable(f"entry {seq} cannot be read: it is not in its file any more")
            yield rows[seq - first_seq]

    def _read(self, first_seq: int) -> list[Entry]:
        try:
            return read_rows(self._file(first_seq), self._chain)
        except ValueError as error:
            raise Unavailable(f"the entries from {first_seq} on cannot be read: {error}") from error

    def append(self, entries: Sequence[Entry]) -> None:
        """All or none, on disk on return; what is already there too. Only while nobody else writes."""
        if self._damage is not None:
            raise Unavailable(f"nothing is appended to a damaged chain: {self._damage}")
        make_folder(self._path)
        if entries:
            write_rows(self._file(entries[0].seq), entries)
        # Whoever made the folder, or wrote what is known here, may have died before its name was on disk.
        flush_folder(self._path)
        flush_folder(self._path.parent)
        self.refresh()

    def erase(self, seq: int) -> None:
        """Drop an entry's payload: a file without it takes the place of the one that has it."""
        first_seq = self._first_seqs[seq - 1]
        rows = self._read(first_seq)
        kept = [replace(row, payload=None) if row.seq == seq else row for row in rows]
        if kept != rows:
            write_rows(self._file(first_seq), kept)
