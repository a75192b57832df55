"""Followers: code that keeps something of its own, such as tables, up to date with every chain of the deployment."""

from __future__ import annotations

from typing import Protocol

from precipiq_core.contracts.chain import Chain


class Follower(Protocol):
    """What the hook ``followers`` gives. The plugin that seals (``ledger``) calls it while the deployment serves."""

    @property
    def name(self) -> str:
        """Unique; shown to the operator, such as ``outcomes``."""
        ...

    async def catch_up(self, chain: Chain) -> None:
        """Take in the entries of that chain that were not taken in yet; the follower keeps its own cursor.

        Called for one chain at a time, soon after it has grown, and for every chain after a start; other processes do
        so for the same chain at the same time, and a call may be spurious. MUST take in each entry once, whatever is
        killed when: what was taken in and the cursor change in one transaction. What it raises is logged; it is
        called again later.
        """
        ...
