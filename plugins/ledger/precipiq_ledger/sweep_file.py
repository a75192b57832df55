"""The signed record of sweeps, in a file outside of the database, and the lock of the process that sweeps.

The signature is Ed25519, by a key derived from the master key, over all the rest: who writes files here without that
key can neither claim a sweep that did not run nor take back what one found, but put an older record in its place.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from precipiq_contracts.vault import MasterKey
from precipiq_core.key_files import make_folder, sync, write_private
from precipiq_ledger.sweep_book import SweepBook, book_of

KEY_PURPOSE = "ledger sweep record signing, Ed25519, version 1"

_VERSION = 1


class SweepFile:
    """``sweep.json`` in that folder. Its methods block."""

    def __init__(self, folder: Path, master_key: MasterKey) -> None:
        self._folder = folder
        self._path = folder / "sweep.json"
        self._master_key = master_key

    def derive_key(self) -> None:
        """Derive the key now, and not when it is first used. Raises ``DeploymentError``."""
        _ = self._key

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._master_key.derive(KEY_PURPOSE))

    def version(self) -> tuple[int, int, int] | None:
        """Another value whenever the record was written anew; None without one."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> SweepBook | None:
        """The record; None without one. Raises ``OSError``, and ``ValueError`` for one of another deployment."""
        try:
            content = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError as error:
            raise ValueError("the record of sweeps is not readable") from error
        if not isinstance(content, dict) or content.get("v") != _VERSION:
            raise ValueError("the record of sweeps is not readable")
        signature = content.pop("signature", "")
        try:
            self._key.public_key().verify(base64.b64decode(signature, validate=True), _signed_bytes(content))
        except (InvalidSignature, ValueError, TypeError) as error:
            raise ValueError("the record of sweeps has a wrong signature") from error
        return book_of(content)

    def keep_copy(self, folder: Path) -> None:
        """Copy the record into that folder. Raises ``OSError``."""
        write_private(folder / self._path.name, self._path.read_text())

    def write(self, book: SweepBook) -> None:
        """Put the book on record: whole or not at all, durable on return. Raises ``OSError``."""
        make_folder(self._folder)
        content: dict[str, Any] = {"v": _VERSION, **book.to_json()}
        content["signature"] = base64.b64encode(self._key.sign(_signed_bytes(content))).decode()
        beside = self._folder / ".sweep.json.part"  # who holds the lock alone writes
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(orjson.dumps(content))
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self._path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        sync(self._folder)

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether this process is the one that sweeps; it is until the context ends, or the process."""
        make_folder(self._folder)
        descriptor = os.open(self._folder / ".sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def _signed_bytes(content: dict[str, Any]) -> bytes:
    """What the signature covers. Not the canonical form of the chain: nobody but this program reads it."""
    return b"precipiq sweep record\n" + orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
