"""Files and folders for their owner alone, and key files: made once, even when several processes make one."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError

_KEY_BYTES = 32


def create_key_file(path: Path, randomness: Randomness, *, where: str) -> bool:
    """Make the file, with 32 random bytes as 64 hex digits; False when it exists. The file appears atomically.

    ``where``: the setting that names it. Raises ``DeploymentError``.
    """
    part = path.with_name(f".{path.name}.{randomness.bytes(8).hex()}")
    try:
        make_folder(path.parent)
        try:
            write_private(part, randomness.bytes(_KEY_BYTES).hex() + "\n")
            os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise DeploymentError([f"{where}: {path} cannot be made: {error.strerror}"]) from error
    return True


def make_folder(path: Path) -> None:
    """Make it, for its owner alone like each folder above it that is new. Raises ``OSError``."""
    for folder in reversed([each for each in (path, *path.parents) if not each.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(folder.parent)
    if not path.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(path))


def keep_private(path: Path) -> None:
    """Take from everybody else what a file or folder of this user's allows them, where that can be done."""
    with suppress(OSError):
        found = path.lstat()
        is_ours = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and not found.st_mode & stat.S_ISVTX
        if is_ours and found.st_mode & 0o077:
            path.chmod(found.st_mode & (0o700 if stat.S_ISDIR(found.st_mode) else 0o600))


def write_private(path: Path, text: str) -> None:
    """A new file, durable on return. Raises ``OSError``, ``FileExistsError`` when there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """What was made in it or moved there is durable on return. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
