"""Bundles in a folder of this machine, or of a network file system that all machines share."""

from __future__ import annotations

import asyncio
import errno
import re
import shutil
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from precipiq_contracts.bundle_store import BUNDLE_NAME
from precipiq_contracts.errors import InternalError, NotFound, Unavailable
from precipiq_core.key_files import keep_private, make_folder, sync

PIECE_BYTES = 256 * 1024

_NAME = re.compile(BUNDLE_NAME)


class LocalBundles:
    """See ``precipiq_contracts.bundle_store.BundleStore``. Only their owner can read the folder and its files."""

    def __init__(self, folder: Path, *, is_shared: bool = False) -> None:
        self._folder = folder
        self.is_shared = is_shared

    async def put(self, name: str, source: Path) -> None:
        """See ``BundleStore.put``. Moves the file, or copies it when it lies on another file system."""
        storing = asyncio.ensure_future(asyncio.to_thread(self._put, self._path(name), source))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            await asyncio.gather(storing, return_exceptions=True)  # no file may appear later
            raise

    async def size(self, name: str) -> int | None:
        """See ``BundleStore.size``."""
        with _unavailable("looked at"):
            try:
                return (await asyncio.to_thread(self._path(name).stat)).st_size
            except FileNotFoundError:
                return None

    async def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """See ``BundleStore.read``."""
        file = BundleFile(self._path(name), start)
        try:
            while start < end:
                with _unavailable("read"):
                    piece = await asyncio.to_thread(file.read, min(end - start, PIECE_BYTES))
                if not piece:
                    raise Unavailable("a bundle ends before the bytes that were asked for")
                start += len(piece)
                yield piece
        finally:
            await asyncio.shield(asyncio.to_thread(file.close))

    async def delete(self, name: str) -> None:
        """See ``BundleStore.delete``; deletes a killed process's partial copy too."""
        with _unavailable("deleted"):
            await asyncio.to_thread(self._delete, self._path(name))

    def _put(self, path: Path, source: Path) -> None:
        with _unavailable("stored"):
            make_folder(path.parent)
            keep_private(path.parent)
            try:
                _make_durable(source)
                source.replace(path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(source, path)
            sync(path.parent)

    def _delete(self, path: Path) -> None:
        _part_of(path).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            path.unlink()
            sync(path.parent)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InternalError("that cannot be the name of a bundle")
        return self._folder / name


class BundleFile:
    """A file that threads open, read and close, one at a time: a cancelled read may still run when it is closed."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._start = start
        self._turn = threading.Lock()
        self._stream: FileIO | None = None
        self._is_closed = False

    def read(self, count: int) -> bytes:
        """The next bytes, none after the last. Raises ``NotFound``, ``OSError``."""
        with self._turn:
            if self._is_closed:
                return b""
            if self._stream is None:
                try:
                    self._stream = self._path.open("rb", buffering=0)
                except FileNotFoundError:
                    raise NotFound("there is no such bundle") from None
                self._stream.seek(self._start)
            return self._stream.read(count)

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
            if self._stream is not None:
                self._stream.close()


def _part_of(path: Path) -> Path:
    """The path of a partial copy; no bundle has such a name."""
    return path.with_name(f".{path.name}.part")


def _copy(source: Path, path: Path) -> None:
    part = _part_of(path)
    try:
        part.touch(mode=0o600)
        shutil.copyfile(source, part)
        _make_durable(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    path.chmod(0o600)
    sync(path)


@contextmanager
def _unavailable(attempt: str) -> Iterator[None]:
    """Translate the file system's errors into the contract's, without a path, as clients read the text."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"a bundle cannot be {attempt} in the folder of exports: {reason}") from error
