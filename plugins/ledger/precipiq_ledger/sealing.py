"""The keys of the sealer's MACs, and sealing with them. The rules of MACs are in ``precipiq_macs.entry_macs``."""

from __future__ import annotations

from typing import Protocol

from precipiq_contracts.vault import MasterKey
from precipiq_macs.entry_macs import PURPOSE, EntryMacs, epoch_key, epoch_of


class EpochKeys(Protocol):
    """The keys of epochs, for sealing. Another process may hold the root of them."""

    def key_of(self, epoch: int) -> bytes:
        """The key of that epoch. Raises ``DeploymentError`` when there is none."""
        ...


class MasterEpochKeys:
    """See ``EpochKeys``: the keys of all epochs, derived from the master key when the first one is needed."""

    def __init__(self, master_key: MasterKey) -> None:
        self._master_key = master_key

    @property
    def root(self) -> bytes:
        """The root of all epochs' keys, for verification. Blocks about 50 ms the first time."""
        return self._master_key.derive(PURPOSE)

    def key_of(self, epoch: int) -> bytes:
        """See ``EpochKeys.key_of``."""
        return epoch_key(self.root, epoch)


class EntrySealer:
    """Gives new entries their MACs; keeps the key of one epoch alone. Used in several threads."""

    def __init__(self, keys: EpochKeys) -> None:
        self._keys = keys
        self._current: tuple[int, EntryMacs] | None = None

    def mac(self, time_us: int, entry_hash: str) -> str:
        """The MAC of an entry with that time, microseconds since 1970, and hash. Raises ``DeploymentError``."""
        epoch, current = epoch_of(time_us), self._current
        if current is None or current[0] != epoch:
            current = self._current = epoch, EntryMacs(self._keys.key_of(epoch))
        return current[1].of(entry_hash)
