"""The folder of checkpoint files, outside the database: one file per chain, one JSON line per checkpoint.

A line is written whole or not at all, whatever the disk does and whoever else writes. What a crash left of a line at
the end of a file is absent for readers, and the next write mends it. No complete line is ever changed or removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import orjson
import structlog

from precipiq_contracts.chain import ENVIRONMENTS, Chain, Environment
from precipiq_contracts.entry_store import ORG_ID_BYTES_MAX
from precipiq_core.key_files import keep_private, make_folder, sync
from precipiq_ledger.checkpoints import LINE_BYTES_MAX, Checkpoint, CheckpointSigner, parse_checkpoint

log = structlog.get_logger("precipiq.ledger")

LOCK_WAIT_S = 10.0
_LOCK_PAUSE_S = 0.005
_TAILS_BYTES = (LINE_BYTES_MAX // 2, 16 * LINE_BYTES_MAX)
"""How much of a file's end is looked at for its newest valid line: at first, and when there is none in it."""
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a link leads elsewhere, a pipe keeps its reader waiting
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED_NAME = re.compile(r"~((?:[0-9a-f]{2})+)")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file. ``number``: from 1; ``checkpoint``: None when it is none.

    ``is_torn``: it is the last one, and what a crash may leave of a line.
    """

    number: int
    checkpoint: Checkpoint | None
    is_torn: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint with its place in its file. ``end``: the offset after its line; ``line``: its bytes."""

    checkpoint: Checkpoint
    end: int
    line: bytes


class CheckpointFiles:
    """The folder of checkpoint files. Its methods block, and raise ``OSError``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ignores_case: bool | None = None

    def append(self, checkpoint: Checkpoint) -> Place:
        """Add a line, durable on return; nothing is added when this raises."""
        make_folder(self.folder)
        path, line = self._path(checkpoint.chain), checkpoint.line()
        with locked(path) as descriptor:
            end = _mend(descriptor, path)
            try:
                write_all(descriptor, line, end)
                os.fsync(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, end)
                    os.fsync(descriptor)
                raise
            if end == 0:
                sync(path.parent)
        return Place(checkpoint, end + len(line), line)

    def set_aside(self, chain: Chain, folder: Path) -> None:
        """Move the chain's file, if it has one, into that folder of the same file system."""
        with suppress(FileNotFoundError):
            path = self._path(chain)
            path.rename(folder / path.name)
            sync(folder)
            sync(self.folder)

    def keep_private(self) -> None:
        """The folder and its files are for their owner alone, whoever made them."""
        for path in (self.folder, *self.folder.glob("*")):
            keep_private(path)

    def chains(self) -> set[Chain]:
        """Those that have a file."""
        found = (chain_of(path.name) for path in self.folder.glob("*.jsonl"))
        return {chain for chain in found if chain is not None}

    def newest(self, chain: Chain, signer: CheckpointSigner) -> Place | None:
        """The newest checkpoint of exactly that chain with a signature of this deployment's key.

        Only a set number of bytes at the file's end are looked at.
        """
        try:
            stream = self._open(chain)
        except FileNotFoundError:
            return None
        with stream:
            size = os.fstat(stream.fileno()).st_size
            for tail_bytes in _TAILS_BYTES:
                places = [place for place in _places(stream, size, tail_bytes) if place.checkpoint.chain == chain]
                for place in sorted(places, key=lambda place: (-place.checkpoint.seq, place.end)):
                    if signer.holds(place.checkpoint):
                        return place
                if tail_bytes >= size:
                    break
        return None

    def line_at(self, chain: Chain, end: int) -> bytes | None:
        """The line that ends at that offset of the chain's file; None when no line does."""
        try:
            stream = self._open(chain)
        except FileNotFoundError:
            return None
        with stream:
            start = max(0, end - LINE_BYTES_MAX)
            before = os.pread(stream.fileno(), end - start, start)
        if len(before) < end - start or not before.endswith(b"\n"):
            return None
        return before[before.rfind(b"\n", 0, -1) + 1 :]

    def read(self, chain: Chain) -> Iterator[Line]:
        """The lines of that chain's file, oldest first."""
        try:
            stream = self._open(chain)
        except (FileNotFoundError, UnnameableChain):
            return  # none can have been written
        with stream:
            waiting: Line | None = None
            for number, content in enumerate(_lines(stream), start=1):
                if waiting is not None:
                    yield Line(waiting.number, None)
                    waiting = None
                checkpoint = None if content is None else _parsed(content)
                if checkpoint is None:
                    waiting = Line(number, None, is_torn=content is None or not _is_json(content))
                else:
                    yield Line(number, checkpoint)
            if waiting is not None:
                yield waiting

    def _open(self, chain: Chain) -> BinaryIO:
        descriptor = os.open(self._path(chain), os.O_RDONLY | _SAFE)
        try:
            _refuse_irregular(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")

    def _path(self, chain: Chain) -> Path:
        if self._ignores_case is None and self.folder.exists():
            other = self.folder.with_name(self.folder.name.swapcase())
            self._ignores_case = other.exists() and other.samefile(self.folder)
        return self.folder / file_name(chain, ignores_case=bool(self._ignores_case))


class UnnameableChain(ValueError):
    """No organisation or environment can be called that: such a row came past the ledger."""


def file_name(chain: Chain, *, ignores_case: bool = False) -> str:
    """A name for that chain alone, in the folder itself. ``ignores_case``: two names may not differ by case only."""
    org_id, environment = chain.org_id, chain.environment
    if not isinstance(org_id, str) or environment not in ENVIRONMENTS:
        raise UnnameableChain("a chain that no organisation can have")
    try:
        content = org_id.encode()
    except UnicodeEncodeError:
        raise UnnameableChain("an organisation id that is no text") from None
    if not 0 < len(content) <= ORG_ID_BYTES_MAX:
        raise UnnameableChain("an organisation id of no or too many bytes")
    is_plain = _PLAIN_NAME.fullmatch(org_id) and not (ignores_case and org_id != org_id.lower())
    name = org_id if is_plain else "~" + content.hex()
    return f"{name}.{environment}.jsonl"


def chain_of(found: str) -> Chain | None:
    """The chain of a file of that name; None for other files."""
    name, _, environment = found.removesuffix(".jsonl").rpartition(".")
    escaped = _ESCAPED_NAME.fullmatch(name)
    org_id = bytes.fromhex(escaped[1]).decode(errors="replace") if escaped else name
    chain = Chain(org_id, cast("Environment", environment))
    try:
        names = {file_name(chain, ignores_case=ignores_case) for ignores_case in (False, True)}
    except UnnameableChain:
        return None
    return chain if found in names else None


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """That file, made if it is missing, for this process alone; gives its descriptor. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600)
    try:
        _refuse_irregular(descriptor)
        lock(descriptor, fcntl.LOCK_EX)
        is_moved = not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat())
        if is_moved:
            raise OSError(errno.ESTALE, "was removed or replaced while it was opened", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int, kind: int, *, wait_s: float | None = None) -> None:
    """Wait for a lock of ``fcntl.flock``, which ends with the descriptor. ``wait_s``: by default ``LOCK_WAIT_S``.

    Raises ``BlockingIOError`` when it takes longer, ``OSError``.
    """
    for _ in range(round((LOCK_WAIT_S if wait_s is None else wait_s) / _LOCK_PAUSE_S)):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        time.sleep(_LOCK_PAUSE_S)
    raise BlockingIOError(errno.EAGAIN, "another process keeps it locked")


def write_all(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of it there, however little the system takes at a time. Raises ``OSError``."""
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _refuse_irregular(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "a checkpoint file is no regular file")


def _mend(descriptor: int, path: Path) -> int:
    """Cut off or close what a crash left of a last line; gives the offset for the next one."""
    size = os.fstat(descriptor).st_size
    begin = max(0, size - _TAILS_BYTES[-1])
    tail = os.pread(descriptor, size - begin, begin)
    start = tail.rfind(b"\n", 0, max(len(tail) - 1, 0)) + 1
    last = tail[start:]
    is_long = start == 0 and begin > 0
    if not last or is_long or _is_json(last):  # whole, or of nobody's writing here: it stays
        if last and not last.endswith(b"\n"):
            write_all(descriptor, b"\n", size)
            size += 1
        return size
    os.ftruncate(descriptor, begin + start)
    log.warning("the torn last line of a checkpoint file was cut off", file=path.name, bytes=len(last))
    return begin + start


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Each line; None for one that is too long for a checkpoint."""
    while content := stream.readline(LINE_BYTES_MAX):
        is_long = not content.endswith(b"\n") and len(content) == LINE_BYTES_MAX
        yield None if is_long else content
        while is_long and (content := stream.readline(LINE_BYTES_MAX)):
            is_long = not content.endswith(b"\n")


def _places(stream: BinaryIO, size: int, tail_bytes: int) -> Iterator[Place]:
    """The whole checkpoints among a file's last bytes."""
    offset = max(0, size - tail_bytes)
    tail = os.pread(stream.fileno(), size - offset, offset)
    for number, line in enumerate(tail.splitlines(keepends=True)):
        offset += len(line)
        is_cut = number == 0 and offset > len(line) and size > tail_bytes
        if line.endswith(b"\n") and not is_cut and (checkpoint := _parsed(line)) is not None:
            yield Place(checkpoint, offset, line)


def _parsed(line: bytes) -> Checkpoint | None:
    try:
        return parse_checkpoint(line)
    except ValueError:
        return None


def _is_json(line: bytes) -> bool:
    """No part of a checkpoint's line is, so it is no torn one."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
