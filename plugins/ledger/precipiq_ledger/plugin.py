"""Wiring of the ledger: what it provides, contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import structlog
from prometheus_client import CollectorRegistry

from precipiq_chain.ledger_hooks import DriverOptions, LedgerHooks
from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import ADOPTION, EntryKind
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.database import ClockedDatabase, Database, Migration
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.errors import DeploymentError, PrecipiqError
from precipiq_contracts.followers import Follower
from precipiq_contracts.hooks import Hooks
from precipiq_contracts.ledger import ChainAudit, Ledger
from precipiq_contracts.plans import Plans
from precipiq_contracts.registries import EntryKinds, EntryStoreDrivers, Followers
from precipiq_contracts.services import Services
from precipiq_contracts.vault import MasterKey
from precipiq_core.http.request_keys import RequestKeys
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_core.registry import Registry
from precipiq_ledger.adoption_marks import ROWS, AdoptionMarks
from precipiq_ledger.anchors import ROUNDS_MISSED_MAX, AnchorAge
from precipiq_ledger.authenticity import Authenticity
from precipiq_ledger.checkpoint_files import CheckpointFiles
from precipiq_ledger.checkpoint_setup import Checkpointing, checkpoints_of_command, run_checkpoints
from precipiq_ledger.clock_watch import ClockLimits, ClockMetrics, ClockWatch
from precipiq_ledger.command_index import COMMANDS
from precipiq_ledger.config import LedgerConfig
from precipiq_ledger.driver_choice import choose_driver
from precipiq_ledger.errors import ClockUntrusted
from precipiq_ledger.integrity import Integrity
from precipiq_ledger.records import BODY_FIELDS, DECISION, PAYLOAD_FIELDS
from precipiq_ledger.request_keys import NoRequestKeys, StoredRequestKeys
from precipiq_ledger.row_trust import RowTrust
from precipiq_ledger.sealing import EntrySealer, MasterEpochKeys
from precipiq_ledger.service import REDACTION, RESTORE, LedgerService, Limits
from precipiq_ledger.stored_bytes import StoredBytes
from precipiq_ledger.stored_chains import StoredChains
from precipiq_ledger.sweep_memory import SweepMemory
from precipiq_ledger.sweep_metrics import SweepMetrics
from precipiq_ledger.verifier import Verifier, VerifierLimits
from precipiq_macs.row_macs import RowMacs, TrustedRows
from precipiq_work.off_loop import OffLoop

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint

log = structlog.get_logger("precipiq.ledger")

_SQL = Path(__file__).parent / "sql"
_OWN_TABLES = {"request_keys": _SQL / "migrations", "ledger_usage": _SQL / "usage" / "migrations"}


class LedgerPlugin(PluginBase[LedgerConfig], LedgerHooks):
    """The chain, decisions and verification."""

    name = "ledger"
    Config = LedgerConfig
    provides: ClassVar[tuple[type, ...]] = (
        Ledger,
        LedgerService,
        Verifier,
        ChainAudit,
        EntryKinds,
        EntryStoreDrivers,
        Followers,
        RequestKeys,
        Integrity,
        RowTrust,
        CheckpointFiles,
    )
    requires: ClassVar[tuple[type, ...]] = (MasterKey, RowMacs)
    optional: ClassVar[tuple[type, ...]] = (Database,)
    owns: ClassVar[tuple[type, ...]] = (LedgerHooks,)

    _driver: EntryStoreDriver

    @hookimpl
    def provide(self, services: Services) -> None:
        config = self.config
        http = services.get(HttpSettings)
        clock, randomness = services.get(Clock), services.get(Randomness)
        clock_limits = ClockLimits(
            config.clock_ahead_warn_s, config.clock_ahead_max_s, config.clock_step_max_s, config.clock_watch_interval_s
        )
        metrics = ClockMetrics(services.get(CollectorRegistry))
        self._watch = ClockWatch(clock, clock_limits, metrics)
        keys = MasterEpochKeys(services.get(MasterKey))
        entry_limits = Limits(config.entry_bytes_max, http.depth_max)
        service = LedgerService(clock, randomness, entry_limits, self._watch, EntrySealer(keys), services.get(OffLoop))
        folder = services.get(DeploymentInfo).data_dir / config.checkpoint_dir
        files = CheckpointFiles(folder)
        database = services.find(Database)
        service.usage = StoredBytes(database, config.stored_bytes_max)
        marks = AdoptionMarks(folder, database, lambda: keys.root)
        self._authenticity = Authenticity(lambda: service.store, lambda: keys.root, marks)
        service.authenticate = self._authenticity.first_unauthentic
        self._rows = RowTrust(database, AdoptionMarks(folder, database, lambda: keys.root, ROWS))
        services.get(RowMacs).is_settled = self._rows.is_settled
        limits = VerifierLimits(
            config.verify_batch_entries,
            config.verify_processes,
            config.verify_inline_entries_max,
            config.verify_concurrency_max,
            config.checkpoint_signatures_max,
            config.verify_queue_max,
        )
        self._files = files
        self._age = AnchorAge(clock, max(config.checkpoint_stale_s, ROUNDS_MISSED_MAX * config.checkpoint_interval_s))
        self._sweep_metrics = SweepMetrics(services.get(CollectorRegistry))
        services.provide(Ledger, service)
        services.provide(LedgerService, service)
        verifier = Verifier(services.get(MasterKey), files, limits, self._watch, self._age, self._authenticity.check_of)
        verifier.remembered = SweepMemory(services.get(DeploymentInfo).data_dir / "sweep", services.get(MasterKey))
        services.provide(Verifier, verifier)
        integrity = Integrity(clock, self._sweep_metrics, config.sweep_within_s)
        services.provide(ChainAudit, StoredChains(service, verifier, integrity))
        self._kinds = Registry[EntryKind]("entry kind")
        self._drivers = Registry[EntryStoreDriver]("entry store driver")
        self._follower_registry = Registry[Follower]("follower")
        self._tables = Registry[TrustedRows]("table of trusted rows")
        services.provide(EntryKinds, self._kinds)
        services.provide(EntryStoreDrivers, self._drivers)
        services.provide(Followers, self._follower_registry)
        services.provide(Integrity, integrity)
        services.provide(RowTrust, self._rows)
        services.provide(CheckpointFiles, files)
        bound = NoRequestKeys() if database is None else StoredRequestKeys(database, services.get(MasterKey), clock)
        services.provide(RequestKeys, bound)

    def gather(self, hooks: Hooks, services: Services) -> None:
        """Call the hooks of the ledger, and take the other plugins' drivers, kinds and followers."""
        options = DriverOptions(self.config.find_scan_rows_max, self.config.watch_poll_s)
        self._drivers.fill(hooks.collect("entry_store_drivers", options=options))
        self._kinds.fill(hooks.collect("entry_kinds"))
        self._follower_registry.fill(hooks.collect("followers"))
        self._tables.fill(hooks.collect("trusted_rows"))
        self._rows.tables = tuple(self._tables.by_name.values())
        self._driver = choose_driver(self.config.driver, self._drivers, services)
        # Not declared as optional: who provides plans needs the ledger.
        services.get(LedgerService).usage.plans = services.find(Plans)

    @hookimpl
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        return [
            EntryKind(
                DECISION,
                "an agent decided something",
                BODY_FIELDS,
                PAYLOAD_FIELDS,
                present=services.get(LedgerService).present_decisions,
                table="decisions",
            ),
            EntryKind(
                REDACTION,
                "a payload was erased",
                ("target_seq", "target_id", "target_hash", "reason"),
            ),
            EntryKind(
                ADOPTION,
                "the entries before this one, older than the sealer's MACs, were adopted",
                ("head_seq", "head_hash", "note"),
            ),
            EntryKind(
                RESTORE,
                "an old copy of the database was restored, and entries were lost by it",
                ("lost_seq", "lost_hash", "reason"),
            ),
        ]

    @hookimpl
    def migrations(self, services: Services) -> Sequence[Migration]:
        """The driver's, and those of the ledger's own tables where the deployment has a database for them."""
        tables = {} if services.find(Database) is None else _OWN_TABLES
        own = [Migration(name, folder, {name: ("org_id", "environment")}) for name, folder in tables.items()]
        return [*getattr(self._driver, "migrations", ()), *own]

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        service, verifier = services.get(LedgerService), services.get(Verifier)
        from precipiq_ledger.routes import LedgerRoutes

        http, clock, integrity = services.get(HttpSettings), services.get(Clock), services.get(Integrity)
        return LedgerRoutes(service, verifier, integrity, self._rows, self.config, http, clock).endpoints()

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services, self._driver)

    @asynccontextmanager
    async def _run(self, services: Services, driver: EntryStoreDriver) -> AsyncIterator[None]:
        service = services.get(LedgerService)
        async with driver.open() as store:
            service.start(store, services.get(EntryKinds).by_name)
            try:
                if services.get(DeploymentInfo).serving:
                    async with AsyncExitStack() as stack:
                        await stack.enter_async_context(service.usage.run(services.get(Background), store))
                        for part in (self._adoption, self._checkpoints, self._followers, self._clock, self._sweep):
                            await stack.enter_async_context(part(services))
                        yield
                else:
                    async with checkpoints_of_command(self._checkpointing(services), services):
                        yield
                    await service.usage.flush()
            finally:
                service.stop()

    @asynccontextmanager
    async def _adoption(self, services: Services) -> AsyncIterator[None]:
        """Adopt what is older than the sealer's MACs before anything is served, or as soon as it can be done."""
        service = services.get(LedgerService)

        async def settle() -> None:
            await self._authenticity.settle(service.adopt)
            await self._rows.settle()

        try:
            await settle()
        except DeploymentError:
            raise
        except PrecipiqError as error:
            log.error("what is older than the MACs is not adopted yet", reason=error.message)
        async with services.get(Background)(
            "ledger.adoption",
            settle,
            every_s=self.config.checkpoint_interval_s,
            failing="what is older than the MACs is not adopted",
            waits_first=True,
            round_s_max=LONG_ROUND_S_MAX,
        ):
            yield

    @asynccontextmanager
    async def _followers(self, services: Services) -> AsyncIterator[None]:
        from precipiq_ledger.follower_runner import FollowerRunner, RunnerLimits

        service = services.get(LedgerService)
        runner = FollowerRunner(service, services.get(Followers).by_name, RunnerLimits.of(self.config))
        service.on_append = runner.note
        async with runner.run(services.get(Background)):
            yield

    @asynccontextmanager
    async def _checkpoints(self, services: Services) -> AsyncIterator[None]:
        exchanged = any("ledger_checkpoints" in migration.tenant_tables for migration in self.migrations(services))
        async with run_checkpoints(self._checkpointing(services), services, exchanged=exchanged):
            yield

    def _checkpointing(self, services: Services) -> Checkpointing:
        return Checkpointing(
            self._files,
            self._watch,
            self._age,
            self._authenticity,
            services.get(Integrity),
            self.config.checkpoint_interval_s,
        )

    @asynccontextmanager
    async def _clock(self, services: Services) -> AsyncIterator[None]:
        """Watch the clock; look once before anything is served."""
        database = services.find(Database)
        if isinstance(database, ClockedDatabase):
            self._watch.reference = database.now_us
        with suppress(ClockUntrusted):
            await self._watch.look()
        async with self._watch.run(services.get(Background)):
            yield

    @asynccontextmanager
    async def _sweep(self, services: Services) -> AsyncIterator[None]:
        if not self.config.sweep_enabled:
            yield
            return
        from precipiq_ledger.sweep_setup import run_sweep

        async with run_sweep(self.config, services, self._sweep_metrics, self._rows):
            yield
