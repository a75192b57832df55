"""Keys of no secrecy for tests, and the MACs of rows made with them or with a server's own master key."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from precipiq_core.master_key import MasterKeyFile
from precipiq_core.system import SystemRandomness
from precipiq_macs.row_macs import RowMacs


class HashingMasterKey:
    """A ``MasterKey`` that hashes the purpose."""

    def derive(self, purpose: str) -> bytes:
        """See ``MasterKey.derive``."""
        return sha256(purpose.encode()).digest()


ROW_MACS = RowMacs(HashingMasterKey())


def row_macs_of(data_dir: Path) -> RowMacs:
    """Those that a server with that data folder makes."""
    return RowMacs(MasterKeyFile(data_dir / "master.key", is_made=False, randomness=SystemRandomness()))
