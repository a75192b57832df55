"""Wiring of ``sqlite``: what it provides, contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from precipiq_chain.ledger_hooks import DriverOptions, LedgerHooks
from precipiq_contracts.background import Background
from precipiq_contracts.database import Database
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.registries import Migrations
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_sqlite.config import SqliteConfig
from precipiq_sqlite.service import SqliteDatabase


class SqlitePlugin(PluginBase[SqliteConfig], LedgerHooks):
    """The database in a file, and the entry store driver on it."""

    name = "sqlite"
    Config = SqliteConfig
    provides: ClassVar[tuple[type, ...]] = (Database,)

    _database: SqliteDatabase

    @hookimpl
    def provide(self, services: Services) -> None:
        info = services.get(DeploymentInfo)
        if info.workers > 1:
            problem = f"server.workers: {info.workers} processes cannot serve one SQLite database: use PostgreSQL"
            raise DeploymentError([problem])
        self._database = SqliteDatabase(self.config, self.config.file(info.data_dir), checkpoints=info.serving)
        services.provide(Database, self._database)

    @hookimpl(optionalhook=True)
    def entry_store_drivers(self, services: Services, options: DriverOptions) -> Sequence[EntryStoreDriver]:
        from precipiq_sqlite.entries.driver import SqliteDriver

        return [SqliteDriver(self._database, options, services.get(Background))]

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._database.open(list(services.get(Migrations).by_name.values()))
