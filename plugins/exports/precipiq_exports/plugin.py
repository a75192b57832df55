"""Wiring of ``exports``: what it contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry

from precipiq_contracts.auth import AddressLimiter
from precipiq_contracts.background import Background
from precipiq_contracts.bundle_store import BundleStore
from precipiq_contracts.chain import EntryKind
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.database import Database, Migration
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.ledger import ChainAudit, Ledger
from precipiq_contracts.plans import Plans
from precipiq_contracts.registries import EntryKinds
from precipiq_contracts.services import Services
from precipiq_contracts.vault import KeyVault, WrappedSecrets
from precipiq_core.http.settings import HttpSettings
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_exports.command_index import COMMANDS
from precipiq_exports.config import ExportsConfig
from precipiq_exports.download_store import DownloadStore
from precipiq_exports.downloads import Downloads
from precipiq_exports.job_store import JobStore
from precipiq_exports.job_trust import JobTrust
from precipiq_exports.kinds import KINDS
from precipiq_exports.leases import LeaseKeeper, LeaseObserver
from precipiq_exports.local_bundles import LocalBundles
from precipiq_exports.maker import BundleMaker, MakerOptions
from precipiq_exports.metrics import ExportMetrics
from precipiq_exports.rotation_limit import RotationLimit
from precipiq_exports.runner import ExportRunner, RunnerLimits
from precipiq_exports.service import ExportService, ServiceLimits
from precipiq_exports.signer import Signer
from precipiq_exports.signing_key_store import SigningKeyStore
from precipiq_exports.signing_key_trust import SigningKeyTrust
from precipiq_exports.signing_keys import SigningKeys
from precipiq_exports.upkeep import Upkeep
from precipiq_macs.row_macs import RowMacs, TrustedRows

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint

_MIGRATIONS = Path(__file__).parent / "sql" / "migrations"
_TENANT_TABLES = {
    "exports": ("org_id", "environment"),
    "signing_keys": ("org_id", "environment"),
    "export_events": ("org_id", "environment"),
    "export_downloads": ("org_id", "environment"),
}
_OWNER_BYTES = 16


class ExportsPlugin(PluginBase[ExportsConfig]):
    """Evidence bundles, and the keys that sign them."""

    name = "exports"
    Config = ExportsConfig
    provides: ClassVar[tuple[type, ...]] = (ExportService, SigningKeys, ExportRunner, Downloads)
    requires: ClassVar[tuple[type, ...]] = (Database, Ledger, ChainAudit, KeyVault, RowMacs)
    optional: ClassVar[tuple[type, ...]] = (BundleStore, AddressLimiter, Plans)

    @hookimpl
    def provide(self, services: Services) -> None:
        config = self.config
        clock, randomness = services.get(Clock), services.get(Randomness)
        ledger = services.get(Ledger)
        folder = services.get(DeploymentInfo).data_dir / config.folder
        work_folder = folder / "work"
        bundles = services.find(BundleStore) or LocalBundles(folder / "bundles", is_shared=config.folder_is_shared)
        database, macs = services.get(Database), services.get(RowMacs)
        store = JobStore(database, macs)
        self._key_store = SigningKeyStore(database, macs)
        trust = SigningKeyTrust(self._key_store, ledger, macs)
        self._trusted = (trust, JobTrust(database, store.events, ledger, macs))
        self._signer = Signer(services.get(KeyVault).access(), waiting_max=config.signing_queue_max)
        self._metrics = ExportMetrics(services.get(CollectorRegistry))
        rotations = RotationLimit(clock, config.key_rotations_per_hour_max)
        keys = SigningKeys(self._key_store, trust, self._signer, ledger, clock, randomness, rotations)
        limits = ServiceLimits(config.open_per_organisation_max, config.downloads_max, config.lease_s)
        plans = services.find(Plans)
        service = ExportService(store, bundles, ledger, clock, randomness, limits, plans)
        maker = BundleMaker(
            store,
            keys,
            ledger,
            services.get(ChainAudit),
            services.get(EntryKinds),
            MakerOptions(work_folder, config.batch_entries, config.compression_level),
        )
        runner = ExportRunner(
            randomness.bytes(_OWNER_BYTES).hex(),
            store,
            service,
            maker,
            bundles,
            LeaseKeeper(store, clock, config.lease_s),
            LeaseObserver(clock, config.lease_s),
            clock,
            self._metrics,
            RunnerLimits(
                config.running_max,
                config.running_per_organisation_max,
                config.failures_max,
                config.retry_s,
                config.poll_s,
                config.retention_s,
            ),
        )
        service.on_change = runner.wake
        self._upkeep = Upkeep(store, service, bundles, clock, work_folder, config.upkeep_interval_s)
        services.provide(ExportService, service)
        services.provide(SigningKeys, keys)
        services.provide(ExportRunner, runner)
        services.provide(
            Downloads,
            Downloads(
                DownloadStore(database),
                ledger,
                clock,
                randomness,
                self._metrics,
                config.download_session_s,
            ),
        )

    @hookimpl
    def entry_kinds(self, services: Services) -> Sequence[EntryKind]:
        return KINDS

    @hookimpl
    def trusted_rows(self, services: Services) -> Sequence[TrustedRows]:
        return self._trusted

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        from precipiq_exports.routes import ExportRoutes, PublishedKeys

        keys = services.get(SigningKeys)
        limiter = services.find(AddressLimiter)
        http = services.get(HttpSettings)
        published = PublishedKeys(keys, limiter, self.config, http)
        routes = ExportRoutes(services.get(ExportService), services.get(Downloads), keys, http, services.get(Clock))
        return [*routes.endpoints(), published.endpoint()]

    @hookimpl
    def migrations(self, services: Services) -> Sequence[Migration]:
        return [Migration("exports", _MIGRATIONS, _TENANT_TABLES)]

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def wrapped_secrets(self, services: Services) -> Sequence[WrappedSecrets]:
        return [self._key_store]

    @hookimpl
    def secret_names(self, services: Services) -> Sequence[str]:
        return ["wrapped_key", "private_key"]

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._signer.close)
            if services.get(DeploymentInfo).serving:
                background = services.get(Background)
                await stack.enter_async_context(services.get(ExportRunner).run(background))
                await stack.enter_async_context(self._upkeep.run(background))
            yield
