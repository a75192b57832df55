"""The deployment's master key as its plugins see it: what gives them derived keys, and never shows itself.

A key in a file is read by a process of its own, never by this one: no dump of this process's memory holds it.
"""

from __future__ import annotations

from typing import Any

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_contracts.secrets import MasterKey
from precipiq_core.child_process import call_once
from precipiq_core.deployment import SecretSettings
from precipiq_core.master_key import SETTING, MasterKeyFile, derived


class HkdfMasterKey:
    """A master key that is known here: that of a variable lies in this process's environment anyway."""

    def __init__(self, secret: str) -> None:
        derived(secret, "")  # refuses one that is too short
        self._secret = secret

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``."""
        return derived(self._secret, purpose)

    def __repr__(self) -> str:
        return "HkdfMasterKey(***)"


class HiddenMasterKey:
    """A master key that only child processes read: one at the start, and one for each purpose, once."""

    def __init__(self, file: MasterKeyFile) -> None:
        self._file = file
        self._derived: dict[str, bytes] = {}
        self._ask("check")

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``. Blocks some fifty milliseconds for a purpose that is new."""
        if purpose not in self._derived:
            self._derived[purpose] = self._ask("derive", purpose)
        return self._derived[purpose]

    def _ask(self, method: str, *arguments: str) -> Any:
        try:
            return call_once(self._file, method, *arguments)
        except Unavailable as error:
            raise DeploymentError([f"{SETTING}: {error.message}"]) from error


class LazyMasterKey:
    """Reads the master key when it is first used, so that most commands need no secret."""

    def __init__(self, settings: SecretSettings, randomness: Randomness) -> None:
        self._settings = settings
        self._randomness = randomness
        self._key: MasterKey | None = None

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``. Raises as :func:`open_master_key` does."""
        return self._opened().derive(purpose)

    def check(self) -> None:
        """Raises as :func:`open_master_key` does, and makes no file: one that is to be made may be absent."""
        path = None if self._settings.master_key is None else self._settings.master_key.file
        if path is None or path.exists() or not self._settings.create_master_key:
            self._opened()

    def _opened(self) -> MasterKey:
        if self._key is None:
            self._key = open_master_key(self._settings, self._randomness)
        return self._key


def open_master_key(settings: SecretSettings, randomness: Randomness) -> MasterKey:
    """Raises ``DeploymentError`` when the deployment names none or it cannot be read."""
    reference = settings.master_key
    if reference is None:
        raise DeploymentError([f"{SETTING}: is required by an enabled plugin"])
    if reference.file is None:
        return HkdfMasterKey(reference.reveal(SETTING))
    return HiddenMasterKey(MasterKeyFile(reference.file, settings.create_master_key, randomness))
