"""The entries of one chain in one file of JSON lines: only ever appended to, but for a payload that is erased.

A line is ``{"row":{...},"check":"..."}``: an entry, and the SHA-256 of the row's text. ``row.more`` is true when the
same append goes on with the next line. So what a crash leaves behind, a line without its end or an append without its
last line, is told from what was written whole; it was never acknowledged, and the next append cuts it off. A whole line
whose check fails is something else, damage: it stays as it is, for verification to find, and nothing follows it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from precipiq_chain.chain_format import head_of, parse_statement
from precipiq_contracts.chain import ENVIRONMENTS, Chain, Entry, Head
from precipiq_contracts.errors import Unavailable

_SAFE_IN_NAMES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_HEAD = b'{"row":'
_TAIL = b',"check":"%b"}'
_TAIL_SIZE = len(_TAIL % (b"0" * 64))
_COPY_BYTES = 1 << 20
_LOCK_STEP_S = 0.005


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it lies in the file. ``damage``: what is wrong with it; ``entry`` is then whatever could be read."""

    offset: int
    size: int
    entry: Entry
    more: bool
    damage: str | None


def file_of(folder: Path, chain: Chain) -> Path:
    """Reversible, and never two chains in one file, also where upper and lower case are the same name."""
    escaped = "".join(chr(byte) if byte in _SAFE_IN_NAMES else f"%{byte:02x}" for byte in chain.org_id.encode())
    return folder / f"{escaped}.{chain.environment}.jsonl"


def chains_in(folder: Path) -> list[Chain]:
    """The chains that have a file."""
    found: list[Chain] = []
    for path in sorted(folder.glob("*.jsonl")):
        org_id, _, environment = path.stem.rpartition(".")
        found.extend(Chain(unquote(org_id), known) for known in ENVIRONMENTS if known == environment)
    return found


@contextmanager
def writing_alone(folder: Path, patience_s: float) -> Iterator[None]:
    """Nobody else writes in the folder meanwhile, in no process. Raises ``Unavailable`` when it takes too long."""
    with (folder / "lock").open("ab") as lock:
        for _ in range(max(int(patience_s / _LOCK_STEP_S), 1)):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_LOCK_STEP_S)
        else:
            raise Unavailable("another process holds the entries; nothing was stored")
        yield


def read_lines(file: BinaryIO, chain: Chain, offset: int = 0, last_seq: int = 0) -> Iterator[Line]:
    """The lines of all appends that came to their end. ``offset``, ``last_seq``: where to begin, and after what."""
    file.seek(offset)
    unfinished: list[Line] = []
    for text in file:
        if not text.endswith(b"\n"):
            return
        line = read_line(text, chain, offset, last_seq + 1)
        offset, last_seq = offset + line.size, line.entry.seq
        unfinished.append(line)
        if not line.more:
            yield from unfinished
            unfinished.clear()


def read_line(text: bytes, chain: Chain, offset: int, expected_seq: int) -> Line:
    """One line; never fails. A line that says nothing intelligible stands for an empty entry with the expected seq."""
    shown = text.rstrip()
    row = shown[len(_HEAD) : -_TAIL_SIZE]
    whole = shown == _HEAD + row + _TAIL % sha256(row).hexdigest().encode()
    try:
        said = json.loads(row)
        payload, key, mac = said["payload"], said["key"], said.get("mac")  # files of a version before have none
        if not isinstance(said["seq"], int) or not isinstance(said["hash"], str):
            raise TypeError("not a row")
        if not isinstance(key, str | None) or not isinstance(mac, str | None):
            raise TypeError("not a row")
        erasable = None if payload is None else payload.encode()
        entry = Entry(chain, said["seq"], said["hash"], said["statement"].encode(), erasable, key, mac)
        more = said["more"] is True and whole
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        entry, more, whole = Entry(chain, expected_seq, "", b"", None), False, False
    damage = None if whole else f"the line at byte {offset} of the file is not the one that was written"
    return Line(offset, len(text), entry, more, damage)


def write_line(entry: Entry, more: bool, size: int = 0) -> bytes:
    """The line of an entry, filled up with spaces to ``size`` bytes."""
    row = {
        "seq": entry.seq,
        "hash": entry.hash,
        "statement": entry.statement.decode(),
        "payload": None if entry.payload is None else entry.payload.decode(),
        "key": entry.idempotency_key,
        "mac": entry.mac,
        "more": more,
    }
    text = json.dumps(row, separators=(",", ":")).encode()
    return (_HEAD + text + _TAIL % sha256(text).hexdigest().encode()).ljust(size - 1) + b"\n"


class EntryFile:
    """A chain's file, and what is known of it by heart: where each entry lies, its kind, ids and keys.

    For one thread. Erasing keeps a line's length, so a place stays true whoever else writes to the file.
    """

    def __init__(self, path: Path, chain: Chain) -> None:
        self._path = path
        self._chain = chain
        self._forget()

    def _forget(self) -> None:
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self.head: Head | None = None
        self.damage: str | None = None
        self.kinds: list[str] = []
        self.seq_of_id: dict[str, int] = {}
        self.seq_of_key: dict[str, int] = {}
        self.redaction_ids: dict[object, str] = {}

    def refresh(self) -> EntryFile:
        """Learn what was appended since, by whatever process."""
        if not self._path.exists():
            self._forget()
            return self
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self._end:
                self._forget()
            if size > self._end and self.damage is None:
                for line in read_lines(file, self._chain, self._end, len(self._places)):
                    self._learn(line)
        return self

    def _learn(self, line: Line) -> None:
        seq = len(self._places) + 1
        if self.damage is None and line.damage is None and line.entry.seq != seq:
            self.damage = f"entry {seq} is missing in {self._path.name}"
        self.damage = self.damage or line.damage
        if self.damage is not None:
            return
        try:
            statement = parse_statement(line.entry.statement)
        except ValueError as error:
            self.damage = f"entry {seq}: {error}"
            return
        self._places.append((line.offset, line.size))
        self._end = line.offset + line.size
        self.head = head_of(line.entry)
        self.kinds.append(statement.kind)
        self.seq_of_id[statement.id] = seq
        if statement.kind == "redaction":
            self.redaction_ids[statement.body.get("target_seq")] = statement.id
        if line.entry.idempotency_key is not None:
            self.seq_of_key[line.entry.idempotency_key] = seq

    def entries(self, seqs: Iterable[int]) -> Iterator[Entry]:
        """Those entries, as they lie in the file now. Raises ``Unavailable`` for one that was damaged."""
        with self._path.open("rb") as file:
            for seq in seqs:
                yield self._line(file, seq).entry

    def _line(self, file: BinaryIO, seq: int) -> Line:
        offset, size = self._places[seq - 1]
        line = read_line(os.pread(file.fileno(), size, offset), self._chain, offset, seq)
        if line.damage is not None:
            raise Unavailable(f"entry {seq} cannot be read: {line.damage}")
        return line

    def append(self, entries: Sequence[Entry]) -> None:
        """All or none, on disk on return. Without entries: what is already there is on disk on return.

        Only while nobody else writes; a refresh must have come before.
        """
        if self.damage is not None:
            raise Unavailable(f"nothing is appended to a damaged file: {self.damage}")
        last = len(entries) - 1
        text = b"".join(write_line(entry, index < last) for index, entry in enumerate(entries))
        is_new = not self._path.exists()
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._write(file, text)
            if is_new:
                flush_folder(self._path.parent)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(file, self._end)
            raise Unavailable(f"{error.strerror}; whether the entries were stored is unknown") from error
        finally:
            os.close(file)
        self.refresh()

    def _write(self, file: int, text: bytes) -> None:
        os.ftruncate(file, self._end)
        os.lseek(file, self._end, os.SEEK_SET)
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)

    def erase(self, seq: int) -> None:
        """Drop an entry's payload: the file is copied without it, and the copy takes the file's place at once.

        Only while nobody else writes.
        """
        try:
            self._erase(seq)
        except OSError as error:
            raise Unavailable(f"{error.strerror}; the redaction is stored, the payload not yet dropped") from error

    def _erase(self, seq: int) -> None:
        copy = self._path.with_suffix(".erasing")
        with self._path.open("rb") as file:
            line = self._line(file, seq)
            if line.entry.payload is None:
                return
            copy.touch(mode=0o600)
            with copy.open("wb") as target:
                _copy(file, target, line.offset)
                target.write(write_line(replace(line.entry, payload=None), line.more, line.size))
                file.seek(line.offset + line.size)
                _copy(file, target, self._end - file.tell())
                target.flush()
                os.fsync(target.fileno())
        copy.replace(self._path)
        flush_folder(self._path.parent)


def flush_folder(folder: Path) -> None:
    """Put the folder's names on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count > 0:
        chunk = source.read(min(count, _COPY_BYTES))
        if not chunk:
            raise OSError("the file became shorter while it was copied")
        target.write(chunk)
        count -= len(chunk)
