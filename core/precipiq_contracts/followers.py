"""Followers: code that keeps its own state, such as tables, up to date with every chain of the deployment."""

from __future__ import annotations

from typing import Protocol

from precipiq_contracts.chain import Chain


class Follower(Protocol):
    """A value of the hook ``followers``. The plugin that seals (``ledger``) calls it while the deployment serves."""

    @property
    def name(self) -> str:
        """Unique; shown to the operator, such as ``outcomes``."""
        ...

    async def catch_up(self, chain: Chain) -> None:
        """Take in the entries of that chain that were not taken in yet; the follower keeps its own cursor.

        Called soon after a chain has grown, and for every chain after a start; in one process for several chains
        concurrently, but never twice at once for a chain. Other processes do the same, a call may be spurious, and a
        call may come before the plugin's own lifespan was entered. MUST take in each entry once, whichever process is
        killed and when: the follower's state and the cursor change in one transaction. An exception is logged, and the
        call repeated later.
        """
        ...
