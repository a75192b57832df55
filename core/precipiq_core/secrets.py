"""The deployment's master key: read from its reference, made at the first start when the deployment allows it."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from precipiq_core.clock import Randomness
from precipiq_core.deployment import SecretSettings
from precipiq_core.errors import DeploymentError

MASTER_KEY_CHARACTERS_MIN = 32


class HkdfMasterKey:
    """Derives keys from the master key by HKDF-SHA256 (RFC 5869). Never shows it."""

    def __init__(self, secret: str) -> None:
        if len(secret) < MASTER_KEY_CHARACTERS_MIN:
            raise DeploymentError([f"secrets.master_key: needs at least {MASTER_KEY_CHARACTERS_MIN} characters"])
        self._secret = secret.encode()

    def derive(self, purpose: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"precipiq:{purpose}".encode()).derive(self._secret)

    def __repr__(self) -> str:
        return "HkdfMasterKey(***)"


def open_master_key(settings: SecretSettings, randomness: Randomness) -> HkdfMasterKey:
    """Raises ``DeploymentError`` when the deployment names none or it cannot be read."""
    reference = settings.master_key
    if reference is None:
        raise DeploymentError(["secrets.master_key: is required by an enabled plugin"])
    if reference.file is not None and settings.create_master_key and not reference.file.exists():
        _create(reference.file, randomness)
    if reference.file is not None and not reference.file.exists():
        raise DeploymentError(
            [
                f"secrets.master_key: there is no file {reference.file}: copy it from another machine of this "
                f"deployment, or make it once, with at least {MASTER_KEY_CHARACTERS_MIN} random characters"
            ]
        )
    return HkdfMasterKey(reference.reveal())


def _create(path: Path, randomness: Randomness) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise DeploymentError([f"secrets.master_key: {path} cannot be made: {error.strerror}"]) from error
    with os.fdopen(descriptor, "w") as stream:
        stream.write(randomness.bytes(32).hex() + "\n")
        stream.flush()
        os.fsync(stream.fileno())
