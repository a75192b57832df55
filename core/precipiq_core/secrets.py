"""The deployment's master key as its plugins see it: what gives them derived keys, and never shows itself.

A key in a file is read by a process of its own, never by this one: no dump of this process's memory holds it.
"""

from __future__ import annotations

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_core.child_process import call_once
from precipiq_core.deployment import SecretSettings
from precipiq_core.master_key import SETTING, MasterKeyFile, derive_key


class DeploymentMasterKey:
    """Reads the master key when it is first used, so that most commands need no secret; for each purpose once."""

    def __init__(self, settings: SecretSettings, randomness: Randomness) -> None:
        self._settings = settings
        self._randomness = randomness
        self._derived: dict[str, bytes] = {}

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``. Blocks some fifty milliseconds for a purpose that is new.

        Raises ``DeploymentError`` when the deployment names no key or it cannot be used.
        """
        if purpose not in self._derived:
            self._derived[purpose] = self._derive(purpose)
        return self._derived[purpose]

    def check(self) -> None:
        """Raises as :meth:`derive` does, and makes no file: one that is to be made may be absent."""
        path = None if self._settings.master_key is None else self._settings.master_key.file
        if path is None or path.exists() or not self._settings.create_master_key:
            self.derive("")

    def _derive(self, purpose: str) -> bytes:
        reference = self._settings.master_key
        if reference is None:
            raise DeploymentError([f"{SETTING}: is required by an enabled plugin"])
        if reference.file is None:  # that of a variable lies in this process's environment anyway
            return derive_key(reference.reveal(SETTING), purpose)
        is_made = self._settings.create_master_key and not self._derived  # never again: it would be another key
        file = MasterKeyFile(reference.file, is_made, self._randomness)
        try:
            key: bytes = call_once(file, "derive", purpose)
        except Unavailable as error:
            raise DeploymentError([f"{SETTING}: {error.message}"]) from error
        return key
