"""Wiring of ``postgres``: what it provides, contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, ClassVar

from precipiq_chain.ledger_hooks import DriverOptions, LedgerHooks
from precipiq_contracts.background import Background
from precipiq_contracts.database import Database
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.registries import Migrations
from precipiq_contracts.services import Services
from precipiq_core.extras import require_extra
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_postgres.address import check_addresses
from precipiq_postgres.config import PostgresConfig

if TYPE_CHECKING:
    from precipiq_postgres.service import PostgresDatabase


class PostgresPlugin(PluginBase[PostgresConfig], LedgerHooks):
    """The database on a server, for any number of processes, and the entry store driver on it."""

    name = "postgres"
    Config = PostgresConfig
    provides: ClassVar[tuple[type, ...]] = (Database,)

    _database: PostgresDatabase

    def __init__(self, config: PostgresConfig) -> None:
        require_extra("database.url", "asyncpg", "precipiq-postgres", "postgres")
        check_addresses(config)
        super().__init__(config)

    def check_serving(self) -> None:
        migrate_password = self.config.migrate_password if self.config.migrate_at_start else None
        for name, reference in (("password", self.config.password), ("migrate_password", migrate_password)):
            if reference is not None:
                reference.reveal(f"database.{name}")

    @hookimpl
    def provide(self, services: Services) -> None:
        from precipiq_postgres.service import PostgresDatabase

        # Commands change no schema, but for the one that is there for it.
        migrates = self.config.migrate_at_start and services.get(DeploymentInfo).serving
        self._database = PostgresDatabase(self.config.model_copy(update={"migrate_at_start": migrates}))
        services.provide(Database, self._database)

    @hookimpl(optionalhook=True)
    def entry_store_drivers(self, services: Services, options: DriverOptions) -> Sequence[EntryStoreDriver]:
        from precipiq_postgres.entries.driver import PostgresDriver

        return [PostgresDriver(self._database, options, services.get(Background))]

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._database.open(list(services.get(Migrations).by_name.values()))
