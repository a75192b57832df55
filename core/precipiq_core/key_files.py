"""Files that hold a key, made once and readable by their owner alone, even when several processes make one."""

from __future__ import annotations

import os
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
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(part, randomness.bytes(_KEY_BYTES).hex() + "\n")
            os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
        _sync(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise DeploymentError([f"{where}: {path} cannot be made: {error.strerror}"]) from error
    return True


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
