"""The hooks that the plugin with the ``Ledger`` owns: contributions that only the ledger uses.

A plugin that implements them derives from :class:`LedgerHooks` beside ``PluginBase``, for completion and types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from precipiq_contracts.chain import EntryKind
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.followers import Follower
from precipiq_contracts.hooks import hookspec
from precipiq_contracts.services import Services
from precipiq_macs.row_macs import TrustedRows


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """The settings of the deployment for every entry store.

    ``find_scan_rows_max``: rows that one call of ``find`` looks at. ``watch_poll_s``: seconds between polls for entries
    without a wake-up.
    """

    find_scan_rows_max: int = 50_000
    watch_poll_s: float = 1.0


class LedgerHooks:
    """Called once at boot, after every ``provide``."""

    @hookspec
    def entry_store_drivers(self, services: Services, options: DriverOptions) -> Sequence[EntryStoreDriver]:
        """Entry store drivers by unique name; the ledger opens the one that the deployment names.

        Without a name it is the one that comes with the deployment's database. Example: ``return [MyDriver(...)]``.
        """
        return ()

    @hookspec
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        """Kinds of entry that the plugin appends. A draft of an unregistered kind is refused.

        Example: ``return [EntryKind("invoice", "an invoice was sent", body_fields=("amount",))]``.
        """
        return ()

    @hookspec
    def followers(self, services: Services) -> Sequence[Follower]:
        """What keeps up with every chain: projections, workers that react to entries. Each has its own cursor.

        Example: ``return [Totals(self.store, services.get(Ledger))]``, with a unique ``name`` and ``catch_up(chain)``.
        Called in serving processes while the ledger is open; never twice at once for a chain in a process.
        """
        return ()

    @hookspec
    def trusted_rows(self, services: Services) -> Sequence[TrustedRows]:
        """Tables of the plugin whose rows grant something, with the comparison of each with what the chain says.

        Example: ``return [VoucherRows(self.store, services.get(Ledger))]``, with a unique ``name``.
        """
        return ()
