"""What this machine's sweep is on record to have seen, for verifications of chains that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from precipiq_chain.verify import ORG_MISSING
from precipiq_contracts.chain import Chain
from precipiq_contracts.ledger import ChainBreak
from precipiq_contracts.secrets import MasterKey
from precipiq_ledger.anchors import Compared
from precipiq_ledger.sweep_file import SweepFile


class SweepMemory:
    """Reads the record in that folder. Another deployment's, or one that cannot be read, is none."""

    def __init__(self, folder: Path, master_key: MasterKey) -> None:
        self._folder = folder
        self._master_key = master_key

    def __call__(self) -> Mapping[Chain, int]:
        """The newest entry seen of each chain. Blocks."""
        try:
            book = SweepFile(self._folder, self._master_key).read()
        except (OSError, ValueError):
            return {}
        return {} if book is None else {chain: swept.tail.seq for chain, swept in book.chains.items() if swept.tail.seq}


def with_missing(compared: Compared, seen_seq: int) -> Compared:
    """The comparison of a chain without an entry of which the sweep saw that one."""
    reason = f"all entries of the chain are gone: the sweep of this machine saw entry {seen_seq}"
    broken = ChainBreak(1, ORG_MISSING, reason)
    found = replace(compared.comparison, broken=broken, findings=(broken, *compared.comparison.findings))
    return Compared(found, compared.unchecked)
