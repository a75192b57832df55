"""Puts the sweep of a deployment together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from precipiq_contracts.background import Background
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


@asynccontextmanager
async def run_sweep(
    config: LedgerConfig, services: Services, metrics: SweepMetrics, rows: RowTrust
) -> AsyncIterator[None]:
    """Sweep the open store while the context is entered; beside it, compare rows and check indexes."""
    background, clock, every_s = services.get(Background), services.get(Clock), config.sweep_interval_s
    database, integrity = services.find(Database), services.get(Integrity)
    file = SweepFile(services.get(DeploymentInfo).data_dir / "sweep", services.get(MasterKey))
    await asyncio.to_thread(file.derive_key)
    sweeper = _make_sweeper(config, services, metrics, file)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(sweeper.run(background))
        watch = RowWatch(rows, integrity, clock, every_s * _ROWS_SHARE, lambda: sweeper.is_sweeping)
        await stack.enter_async_context(watch.run(background, every_s))
        if isinstance(database, IndexedDatabase):
            indexes = IndexWatch(database, integrity, clock, config.sweep_within_s, config.sweep_cpu_share)
            await stack.enter_async_context(indexes.run(background, every_s))
        yield


def _make_sweeper(config: LedgerConfig, services: Services, metrics: SweepMetrics, file: SweepFile) -> Sweeper:
    store, newest_entries = services.get(LedgerService).store, config.verify_inline_entries_max
    database, integrity = services.find(Database), services.get(Integrity)
    return Sweeper(
        integrity,
        store,
        services.get(Verifier),
        file,
        services.get(Clock),
        SweepLimits(config.sweep_interval_s, config.sweep_within_s, config.sweep_cpu_share, max(newest_entries, 1)),
        SweepWorker(store.auditor(), batch_entries=config.verify_batch_entries, inline_entries_max=newest_entries),
        metrics,
        SchemaWatch(database, integrity) if isinstance(database, GuardedDatabase) else None,
    )
