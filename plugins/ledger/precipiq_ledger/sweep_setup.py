"""Puts the sweep of a deployment together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.services import Services
from precipiq_contracts.vault import MasterKey
from precipiq_ledger.config import LedgerConfig
from precipiq_ledger.index_watch import IndexWatch
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.row_trust import RowTrust
from precipiq_ledger.row_watch import RowWatch
from precipiq_ledger.schema_watch import SchemaWatch
from precipiq_ledger.service import LedgerService
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.sweep_limits import SweepLimits
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.sweep_worker import SweepWorker
from precipiq_ledger.sweeper import Sweeper
from precipiq_ledger.verifier import Verifier
from precipiq_schema.schema_state import GuardedDatabase, IndexedDatabase

_ROWS_SHARE = 0.03
"""Of a round, for the comparison of rows: what it does not come to waits for the next one."""


def make_sweeper(config: LedgerConfig, services: Services, metrics: SweepMetrics, rows: RowTrust) -> Sweeper:
    """The sweep over the open store."""
    store, newest_entries = services.get(LedgerService).store, config.verify_inline_entries_max
    database, integrity, clock = services.find(Database), services.get(Integrity), services.get(Clock)
    schema: list[Callable[[], Awaitable[None]]] = (
        [SchemaWatch(database, integrity).look] if isinstance(database, GuardedDatabase) else []
    )
    return Sweeper(
        integrity,
        store,
        services.get(Verifier),
        SweepFile(services.get(DeploymentInfo).data_dir / "sweep", services.get(MasterKey)),
        clock,
        SweepLimits(config.sweep_interval_s, config.sweep_within_s, config.sweep_cpu_share, max(newest_entries, 1)),
        SweepWorker(store.auditor(), batch_entries=config.verify_batch_entries, inline_entries_max=newest_entries),
        metrics,
        [*schema, RowWatch(rows, integrity, clock, config.sweep_interval_s * _ROWS_SHARE).look],
    )


def make_index_watch(config: LedgerConfig, services: Services) -> IndexWatch | None:
    """None where the database cannot check its indexes."""
    database, integrity = services.find(Database), services.get(Integrity)
    if not isinstance(database, IndexedDatabase):
        return None
    return IndexWatch(database, integrity, services.get(Clock), config.sweep_within_s, config.sweep_cpu_share)
