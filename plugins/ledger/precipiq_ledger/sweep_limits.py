"""What the sweep may take, and in which time it must be done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """See the settings ``sweep_*`` of the ledger. ``newest_entries``: checked first in a long chain that is new."""

    interval_s: float
    within_s: float
    cpu_share: float
    newest_entries: int
