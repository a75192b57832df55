"""A deterministic ZIP, streamed: the same members give the same bytes, and memory holds only the chunks in transit."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import chain

from stream_zip import ZIP_64, ZIP_AUTO, Method, stream_zip

_CHUNK_BYTES = 256 * 1024
_AHEAD_MAX = 8  # chunks that wait to be compressed
_SMALL_BYTES = 4 * 1024 * 1024  # a member of up to this size is held, so that only archives that need it are Zip64
_FILE_MODE = 0o100644
_EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)  # a ZIP knows nothing before


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive. ``chunks`` are read once, when everything before the member is written."""

    name: str
    chunks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file in the manifest."""

    path: str
    sha256: str
    size_bytes: int


def archive(
    members: Iterable[Member], created_us: int, compression_level: int, on_written: Callable[[FileDigest], None]
) -> Iterator[bytes]:
    """The bytes of the ZIP. ``on_written`` gets each member's digest before the next member is read."""
    moment = max(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=created_us // 1_000_000), _EARLIEST)
    with ThreadPoolExecutor(1, "deflate") as thread:

        def files() -> Iterator[tuple[str, datetime, int, Method, Iterable[bytes]]]:
            for member in members:
                method, chunks = _choose_method(_digest(member, on_written), compression_level)
                yield member.name, moment, _FILE_MODE, method, chunks

        yield from stream_zip(
            files(),
            chunk_size=_CHUNK_BYTES,
            extended_timestamps=False,  # Unix times of 32 bits end in 2038
            get_compressobj=lambda: _Deflate(thread, compression_level),  # type: ignore[arg-type,return-value]
        )


def _digest(member: Member, on_written: Callable[[FileDigest], None]) -> Iterator[bytes]:
    digest, size_bytes = sha256(), 0
    for chunk in member.chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
        yield chunk
    on_written(FileDigest(member.name, digest.hexdigest(), size_bytes))


def _choose_method(chunks: Iterator[bytes], compression_level: int) -> tuple[Method, Iterable[bytes]]:
    held: list[bytes] = []
    size_bytes = 0
    for chunk in chunks:
        held.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > _SMALL_BYTES:
            return ZIP_64, chain(held, chunks)
    return ZIP_AUTO(size_bytes, compression_level), held


class _Deflate:
    """Compresses in another thread, where zlib holds no interpreter lock, while this thread makes the next chunk."""

    def __init__(self, thread: ThreadPoolExecutor, level: int) -> None:
        self._thread = thread
        self._deflate = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
        self._pending: deque[Future[bytes]] = deque()

    def compress(self, chunk: bytes) -> bytes:
        self._pending.append(self._thread.submit(self._deflate.compress, chunk))
        ready = []
        while self._pending and (self._pending[0].done() or len(self._pending) > _AHEAD_MAX):
            ready.append(self._pending.popleft().result())
        return b"".join(ready)

    def flush(self) -> bytes:
        rest = [pending.result() for pending in self._pending]
        self._pending.clear()
        return b"".join((*rest, self._deflate.flush()))


def in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Many small pieces as fewer large ones."""
    gathered: list[bytes] = []
    size_bytes = 0
    for piece in pieces:
        gathered.append(piece)
        size_bytes += len(piece)
        if size_bytes >= _CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, size_bytes = [], 0
    if gathered:
        yield b"".join(gathered)
