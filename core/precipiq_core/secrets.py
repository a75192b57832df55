"""The deployment's master key for its plugins: derives keys for them, and never shows the master key.

A separate process reads a key in a file, never this one: no dump of this process's memory holds it.
"""

from __future__ import annotations

from precipiq_contracts.clock import Randomness
from precipiq_contracts.errors import DeploymentError, Unavailable
from precipiq_core.deployment import SecretSettings
from precipiq_core.master_key import SETTING, MasterKeyFile, derive_key
from precipiq_work.child_process import call_once


class DeploymentMasterKey:
    """Reads the master key when it is first used, so that most commands need no secret; for each purpose once."""

    def __init__(self, settings: SecretSettings, randomness: Randomness) -> None:
        self._settings = settings
        self._randomness = randomness
        self._derived: dict[str, bytes] = {}

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``. Blocks about 50 ms for a new purpose.

        Raises ``DeploymentError`` when the deployment names no key or it cannot be used.
        """
        if purpose not in self._derived:
            self._derived[purpose] = self._derive(purpose)
        return self._derived[purpose]

    def check(self) -> None:
        """Raises as :meth:`derive` does, but makes no file: a file that serving would make may be absent."""
        path = None if self._settings.master_key is None else self._settings.master_key.file
        if path is None or path.exists() or not self._settings.create_master_key:
            self.derive("")

    def _derive(self, purpose: str) -> bytes:
        reference = self._settings.master_key
        if reference is None:
            raise DeploymentError([f"{SETTING}: is required by an enabled plugin"])
        if reference.file is None:  # a variable's key is in this process's environment anyway
            return derive_key(reference.reveal(SETTING), purpose)
        is_made = self._settings.create_master_key and not self._derived  # a second file would hold another key
        file = MasterKeyFile(reference.file, is_made, self._randomness)
        try:
            key: bytes = call_once(file, "derive", purpose)
        except Unavailable as error:
            raise DeploymentError([f"{SETTING}: {error.message}"]) from error
        return key
