"""What this machine's sweep is on record to have seen, for verifications of chains or checkpoints that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from precipiq_chain.verify import INCONSISTENT_WITH_CHECKPOINT, ORG_MISSING, TRUNCATED
from precipiq_contracts.chain import Chain
from precipiq_contracts.ledger import ChainBreak
from precipiq_contracts.vault import MasterKey
from precipiq_ledger.anchors import CHECKPOINTS_LOST, Compared
from precipiq_ledger.sweep_book import Swept
from precipiq_ledger.sweep_file import SweepFile


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest entry that was seen of a chain, and that of the newest checkpoint; None without one."""

    seq: int
    hash: str
    checkpoint_seq: int | None = None


class SweepMemory:
    """Reads the record in that folder, when it changed. Another deployment's, or one that cannot be read, is none."""

    def __init__(self, folder: Path, master_key: MasterKey) -> None:
        self._file = SweepFile(folder, master_key)
        self._read: tuple[object, Mapping[Chain, Seen]] | None = None

    def __call__(self) -> Mapping[Chain, Seen]:
        """What was seen of each chain that had an entry. Blocks."""
        version = self._file.version()
        if self._read is None or self._read[0] != version:
            self._read = (version, self._seen())
        return self._read[1]

    def _seen(self) -> Mapping[Chain, Seen]:
        try:
            book = self._file.read()
        except (OSError, ValueError):
            return {}
        return {} if book is None else {chain: _seen(swept) for chain, swept in book.chains.items() if swept.tail.seq}


def with_memory(compared: Compared, seen: Seen, ends_at: int, stored: str | None) -> Compared:
    """The comparison of a chain that ended there, with what the sweep saw and is gone: entries, or all checkpoints.

    ``stored``: the hash that the chain has now where the sweep saw an entry; it may have grown meanwhile.
    """
    if not ends_at and stored is None:
        reason = f"all entries of the chain are gone: the sweep of this machine saw entry {seen.seq}"
        broken = ChainBreak(1, ORG_MISSING, reason)
    elif stored is None:
        reason = f"the sweep of this machine saw entry {seen.seq}: the tail was cut or an old copy restored"
        broken = ChainBreak(min(ends_at + 1, seen.seq), TRUNCATED, reason)
    elif stored != seen.hash:
        reason = f"the sweep of this machine saw another entry {seen.seq}: the chain was rewritten at or before it"
        broken = ChainBreak(seen.seq, INCONSISTENT_WITH_CHECKPOINT, reason)
    elif seen.checkpoint_seq is not None and not compared.comparison.compared_count:
        reason = f"no checkpoint of the chain is held: the sweep of this machine saw one of entry {seen.checkpoint_seq}"
        broken = ChainBreak(seen.checkpoint_seq, CHECKPOINTS_LOST, reason)
    else:
        return compared
    found = replace(compared.comparison, broken=broken, findings=(broken, *compared.comparison.findings))
    return Compared(found, compared.unchecked)


def _seen(swept: Swept) -> Seen:
    return Seen(
        swept.tail.seq, swept.tail.hash, None if swept.compared is None else swept.compared.comparison.newest_seq
    )
