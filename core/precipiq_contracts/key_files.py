"""Files that hold a key: read, and made once for their owner alone, whoever else makes the same one at that moment."""

from __future__ import annotations

import os
from pathlib import Path

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError

_KEY_BYTES = 32
_FILE_BYTES_MAX = 64 * 1024


def read_key_file(path: Path) -> str:
    """The secret in it, without surrounding white space. Raises ``DeploymentError`` when it is missing or empty."""
    try:
        with path.open("rb") as stream:
            secret = stream.read(_FILE_BYTES_MAX).decode().strip()
    except FileNotFoundError as error:
        raise DeploymentError([f"the secret in file {path} is missing: there is no such file"]) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text")
        raise DeploymentError([f"the secret in file {path} cannot be read: {reason}"]) from error
    if not secret:
        raise DeploymentError([f"the secret in file {path} is missing or empty"])
    return secret


def create_key_file(path: Path, randomness: Randomness, *, where: str) -> bool:
    """Make it, with 32 random bytes as 64 hex digits; False when it is there. Appears whole, or not at all.

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
