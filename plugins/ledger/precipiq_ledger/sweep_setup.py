"""Puts the sweep of a deployment together."""

from __future__ import annotations

from precipiq_contracts.clock import Clock
from precipiq_contracts.database import Database
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.secrets import MasterKey
from precipiq_contracts.services import Services
from precipiq_core.schema_state import GuardedDatabase
from precipiq_ledger.config import LedgerConfig
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.schema_watch import SchemaWatch
from precipiq_ledger.service import LedgerService
from precipiq_ledger.sweep_file import SweepFile
from precipiq_ledger.sweep_limits import SweepLimits
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.sweep_worker import SweepWorker
from precipiq_ledger.sweeper import Sweeper
from precipiq_ledger.verifier import Verifier


def make_sweeper(config: LedgerConfig, services: Services, metrics: SweepMetrics) -> Sweeper:
    """The sweep over the open store."""
    store, newest_entries = services.get(LedgerService).store, config.verify_inline_entries_max
    database, integrity = services.find(Database), services.get(Integrity)
    return Sweeper(
        integrity,
        store,
        services.get(Verifier),
        SweepFile(services.get(DeploymentInfo).data_dir / "sweep", services.get(MasterKey)),
        services.get(Clock),
        SweepLimits(config.sweep_interval_s, config.sweep_within_s, config.sweep_cpu_share, max(newest_entries, 1)),
        SweepWorker(store.auditor(), batch_entries=config.verify_batch_entries, inline_entries_max=newest_entries),
        metrics,
        SchemaWatch(database, integrity) if isinstance(database, GuardedDatabase) else None,
    )
