"""The deployment's master key where it may be known: keys derived by HKDF-SHA256 (RFC 5869) in a short-lived process.

Imports little, so that the process starts within about 50 ms.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.secret_location import read_key_file
from precipiq_core.key_files import create_key_file

MASTER_KEY_CHARACTERS_MIN = 32
SETTING = "secrets.master_key"

_HASH = "sha256"
_SALT = bytes(32)  # RFC 5869 section 2.2: the value without a salt


@dataclass(frozen=True, slots=True)
class MasterKeyFile:
    """Reads the key at each call. ``is_made``: the file is made when it is absent. Raises ``DeploymentError``."""

    path: Path
    is_made: bool
    randomness: Randomness

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``. Makes the file where that is allowed."""
        if self.is_made and not self.path.exists():
            create_key_file(self.path, self.randomness, where=SETTING)
        if not self.path.exists():
            raise DeploymentError(
                [
                    f"{SETTING}: there is no file {self.path}: copy it from another machine of this deployment, "
                    f"or make it once, with at least {MASTER_KEY_CHARACTERS_MIN} random characters"
                ]
            )
        try:
            secret = read_key_file(self.path)
        except DeploymentError as error:
            raise DeploymentError([f"{SETTING}: {problem}" for problem in error.problems]) from error
        return derive_key(secret, purpose)


def derive_key(secret: str, purpose: str) -> bytes:
    """32 bytes for that purpose. Raises ``DeploymentError`` when the secret is too short."""
    if len(secret) < MASTER_KEY_CHARACTERS_MIN:
        raise DeploymentError([f"{SETTING}: needs at least {MASTER_KEY_CHARACTERS_MIN} characters"])
    key = hmac.digest(_SALT, secret.encode(), _HASH)
    return hmac.digest(key, f"precipiq:{purpose}".encode() + b"\x01", _HASH)
