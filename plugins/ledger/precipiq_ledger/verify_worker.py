"""The program of a verifying process. Imports little, so that it starts fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from precipiq_chain.verify import Anchor, Stretch, verify_stretch
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_macs.entry_macs import MacCheck

_NICENESS = 10
"""Processes that serve go first: beside them a verification gets a ninth of a processor."""


@dataclass(frozen=True, slots=True)
class Task:
    """One stretch of one chain."""

    auditor: EntryAuditor
    chain: Chain
    after: Anchor
    through_seq: int | None
    batch_entries: int

    def verify(self, macs: MacCheck, progress: Callable[[int], None]) -> Stretch:
        """The finding; ``progress`` is called with each number of entries checked. ``macs`` holds a secret."""
        os.nice(_NICENESS)
        return verify_stretch(
            self.auditor,
            self.chain,
            self.after,
            self.through_seq,
            batch_entries=self.batch_entries,
            progress=progress,
            macs=macs,
        )
