"""The location of a secret, as processes pass it on: never the secret itself. Imports little."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from precipiq_contracts.errors import DeploymentError

_FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretLocation:
    """A file or an environment variable: exactly one of the two. The setting is ``settings.SecretReference``."""

    env: str | None = None
    file: Path | None = None

    def reveal(self) -> str:
        """The secret, without surrounding white space. Raises ``DeploymentError`` when it is missing or empty."""
        if self.file is not None:
            return read_key_file(self.file)
        assert self.env is not None
        secret = os.environ.get(self.env, "").strip()
        if not secret:
            raise DeploymentError([f"the secret in environment variable {self.env} is missing or empty"])
        return secret


def read_key_file(path: Path) -> str:
    """The secret in the file, without white space around it. Raises ``DeploymentError`` when it is missing or empty."""
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
