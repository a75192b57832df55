"""Wiring of the ledger: what it provides, contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from precipiq_core.clock import Clock, Randomness
from precipiq_core.contracts.background import Background
from precipiq_core.contracts.chain import EntryKind
from precipiq_core.contracts.database import Database, Migration
from precipiq_core.contracts.deployment import DeploymentInfo
from precipiq_core.contracts.entry_store import MULTI_WRITER, EntryStoreDriver
from precipiq_core.contracts.ledger import ChainAudit, Ledger
from precipiq_core.contracts.registries import EntryKinds, EntryStoreDrivers, Followers
from precipiq_core.contracts.secrets import MasterKey
from precipiq_core.errors import DeploymentError
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_core.services import Services
from precipiq_core.settings import HttpSettings, suggest
from precipiq_ledger.checkpoints import CheckpointFiles, CheckpointSigner
from precipiq_ledger.command_index import COMMANDS
from precipiq_ledger.config import LedgerConfig
from precipiq_ledger.records import BODY_FIELDS, DECISION, PAYLOAD_FIELDS
from precipiq_ledger.service import REDACTION, LedgerService, Limits
from precipiq_ledger.verifier import StoredChains, Verifier, VerifierLimits

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint

_MIGRATIONS = Path(__file__).parent / "sql" / "migrations"
_OWN_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgres"}


class LedgerPlugin(PluginBase[LedgerConfig]):
    """The chain, decisions and verification."""

    name = "ledger"
    Config = LedgerConfig
    provides: ClassVar[tuple[type, ...]] = (Ledger, LedgerService, Verifier, ChainAudit)
    requires: ClassVar[tuple[type, ...]] = (MasterKey,)
    optional: ClassVar[tuple[type, ...]] = (Database,)

    @hookimpl
    def provide(self, services: Services) -> None:
        config = self.config
        depth_max = services.get(HttpSettings).depth_max
        clock, randomness = services.get(Clock), services.get(Randomness)  # type: ignore[type-abstract]
        service = LedgerService(clock, randomness, Limits(config.entry_bytes_max, depth_max))
        files = CheckpointFiles(services.get(DeploymentInfo).data_dir / config.checkpoint_dir)
        limits = VerifierLimits(
            config.verify_batch_entries,
            config.verify_processes,
            config.verify_inline_entries_max,
            config.verify_concurrency_max,
            config.checkpoint_signatures_max,
        )
        self._files = files
        services.provide(Ledger, service)  # type: ignore[type-abstract]
        services.provide(LedgerService, service)
        verifier = Verifier(services.get(MasterKey), files, limits)  # type: ignore[type-abstract]
        services.provide(Verifier, verifier)
        services.provide(ChainAudit, StoredChains(service, verifier))  # type: ignore[type-abstract]

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
        ]

    @hookimpl
    def entry_store_drivers(self, services: Services) -> Sequence[EntryStoreDriver]:
        database = services.find(Database)  # type: ignore[type-abstract]
        scan_rows_max, poll_s = self.config.find_scan_rows_max, self.config.watch_poll_s
        if database is None:
            return []
        background = services.get(Background)  # type: ignore[type-abstract]
        if database.dialect == "postgresql":
            return _postgres_driver(database, scan_rows_max, poll_s, background)
        return _sqlite_driver(database, scan_rows_max, poll_s, background)

    @hookimpl
    def migrations(self, services: Services) -> Sequence[Migration]:
        database = services.find(Database)  # type: ignore[type-abstract]
        if database is None or self._driver_name(services) != _OWN_DRIVERS[database.dialect]:
            return []
        columns = ("org_id", "environment")
        tables: dict[str, tuple[str, str | None]] = {"entries": columns}
        if database.dialect == "postgresql":
            tables["ledger_checkpoints"] = columns
        return [Migration("ledger", _MIGRATIONS, tables, frozenset({"entries"}))]

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        service, verifier = services.get(LedgerService), services.get(Verifier)
        from precipiq_ledger.routes import LedgerRoutes

        return LedgerRoutes(service, verifier, self.config, services.get(HttpSettings)).endpoints()

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services, self._driver(services))

    @asynccontextmanager
    async def _run(self, services: Services, driver: EntryStoreDriver) -> AsyncIterator[None]:
        service = services.get(LedgerService)
        async with driver.open() as store:
            service.start(store, services.get(EntryKinds).by_name)  # type: ignore[type-abstract]
            try:
                if services.get(DeploymentInfo).serving:
                    async with self._checkpoints(services), self._followers(services):
                        yield
                else:
                    yield
            finally:
                service.stop()

    @asynccontextmanager
    async def _followers(self, services: Services) -> AsyncIterator[None]:
        from precipiq_ledger.follower_runner import FollowerRunner, RunnerLimits

        service, config = services.get(LedgerService), self.config
        runner = FollowerRunner(
            service,
            services.get(Followers).by_name,  # type: ignore[type-abstract]
            RunnerLimits(config.follower_delay_s, config.follower_sweep_s, config.follower_chains_max),
        )
        service.on_append = runner.note
        async with runner.running(services.get(Background)):  # type: ignore[type-abstract]
            yield

    @asynccontextmanager
    async def _checkpoints(self, services: Services) -> AsyncIterator[None]:
        from precipiq_ledger.checkpointer import Checkpointer

        signer = CheckpointSigner(services.get(MasterKey))  # type: ignore[type-abstract]
        store = services.get(LedgerService).store
        clock = services.get(Clock)  # type: ignore[type-abstract]
        checkpointer = Checkpointer(store, signer, self._files, clock, self.config.checkpoint_interval_s)
        await checkpointer.compare_heads()
        background = services.get(Background)  # type: ignore[type-abstract]
        async with AsyncExitStack() as stack:
            if any("ledger_checkpoints" in migration.tenant_tables for migration in self.migrations(services)):
                from precipiq_ledger.checkpoint_exchange import CheckpointExchange

                exchange = CheckpointExchange(services.get(Database), signer, checkpointer, clock)  # type: ignore[type-abstract]
                await stack.enter_async_context(exchange.running(background))
            # Left first: what it signs at the end is sent by the exchange.
            await stack.enter_async_context(checkpointer.running(background))
            yield

    def _driver_name(self, services: Services) -> str:
        database = services.find(Database)  # type: ignore[type-abstract]
        return self.config.driver or _OWN_DRIVERS["sqlite" if database is None else database.dialect]

    def _driver(self, services: Services) -> EntryStoreDriver:
        drivers = services.get(EntryStoreDrivers).by_name  # type: ignore[type-abstract]
        name = self._driver_name(services)
        if name not in drivers:
            known = ", ".join(sorted(drivers)) or "none"
            problem = (
                f"plugins.ledger.driver: no driver is called {name!r} (registered: {known}){suggest(name, drivers)}"
            )
            raise DeploymentError([problem])
        workers = services.get(DeploymentInfo).workers
        if workers > 1 and MULTI_WRITER not in drivers[name].capabilities:
            problem = f"plugins.ledger.driver: {name!r} serves one process only, and server.workers is {workers}"
            raise DeploymentError([problem])
        return drivers[name]


def _sqlite_driver(
    database: Database, scan_rows_max: int, poll_s: float, background: Background
) -> Sequence[EntryStoreDriver]:
    from precipiq_core.database.sqlite import SqliteDatabase
    from precipiq_ledger.drivers.sqlite import SqliteDriver, SqliteDriverOptions

    if not isinstance(database, SqliteDatabase):
        return []
    return [SqliteDriver(database, SqliteDriverOptions(scan_rows_max, poll_s), background)]


def _postgres_driver(
    database: Database, scan_rows_max: int, poll_s: float, background: Background
) -> Sequence[EntryStoreDriver]:
    from precipiq_core.database.postgres import PostgresDatabase
    from precipiq_ledger.drivers.postgres import PostgresDriver, PostgresDriverOptions

    if not isinstance(database, PostgresDatabase):
        return []
    return [PostgresDriver(database, PostgresDriverOptions(scan_rows_max, poll_s), background)]
