"""Wiring of ``folder``: what it provides and contributes. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from folder_database.config import FolderConfig
from folder_database.service import FolderDatabase
from precipiq_chain.ledger_hooks import DriverOptions, LedgerHooks
from precipiq_contracts.database import Database
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.entry_store import EntryStoreDriver
from precipiq_contracts.registries import Migrations
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl


class FolderPlugin(PluginBase[FolderConfig], LedgerHooks):
    """Tables and entries as files in a folder."""

    name = "folder"
    Config = FolderConfig
    provides: ClassVar[tuple[type, ...]] = (Database,)

    @hookimpl
    def provide(self, services: Services) -> None:
        self._folder = self.config.folder(services.get(DeploymentInfo).data_dir)
        self._database = FolderDatabase(self.config, self._folder / "tables")
        services.provide(Database, self._database)

    @hookimpl(optionalhook=True)
    def entry_store_drivers(self, services: Services, options: DriverOptions) -> Sequence[EntryStoreDriver]:
        from folder_database.entries.driver import FolderDriver

        return [FolderDriver(self._folder / "entries", options, lock_timeout_s=self.config.lock_timeout_s)]

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._database.opened(list(services.get(Migrations).by_name.values()))
