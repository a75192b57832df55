"""Followers: code that keeps something of its own, such as tables, up to date with every chain of the deployment."""

from __future__ import annotations

from typing import Protocol

from precipiq_contracts.chain import Chain


class Follower(Protocol):
    """What the hook ``followers`` gives. The plugin that seals (``ledger``) calls it while the deployment serves."""

    @property
    def name(self) -> str:
        """Unique; shown to the operator, such as ``outcomes``."""
        ...

    async def catch_up(self, chain: Chain) -> None:
        """Take in the entries of that chain that were not taken in yet; the follower keeps its own cursor.

        Called soon after a chain has grown, and for every chain after a start; in one process for several chains side
        by side, but for none twice at once. Other processes do the same, and a call may be spurious. It may come before
        the plugin's own lifespan was entered. MUST take in each entry once, whatever is
        killed when: what was taken in and the cursor change in one transaction. What it raises is logged; it is
        called again later.
        """
        ...
