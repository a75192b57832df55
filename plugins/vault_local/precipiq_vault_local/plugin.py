"""Wiring of ``vault_local``: what it provides and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

from prometheus_client import CollectorRegistry, Gauge

from precipiq_contracts.background import Background
from precipiq_contracts.clock import Randomness
from precipiq_contracts.deployment import Console, DeploymentInfo
from precipiq_contracts.registries import WrappedSecretsRegistry
from precipiq_contracts.services import Services
from precipiq_contracts.vault import KeyVault
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_vault_local.config import VaultLocalConfig
from precipiq_vault_local.first_start import first_start
from precipiq_vault_local.keys import LocalVaultAccess
from precipiq_vault_local.service import LocalVault, VaultWatch


class VaultLocalPlugin(PluginBase[VaultLocalConfig]):
    """Secrets wrapped under a master key from a file or variable."""

    name = "vault_local"
    Config = VaultLocalConfig
    provides: ClassVar[tuple[type, ...]] = (KeyVault,)

    @hookimpl
    def provide(self, services: Services) -> None:
        config = self.config
        randomness = services.get(Randomness)
        previous = tuple(reference.location for reference in config.previous_master_keys)
        access = LocalVaultAccess(config.master_key.location, previous, randomness)
        self._vault = LocalVault(access, waiting_max=config.queue_max)
        ready = Gauge(
            "precipiq_vault_ready",
            "1: the vault has its master key",
            registry=services.get(CollectorRegistry),
            multiprocess_mode="livemin",
        )
        self._watch = VaultWatch(self._vault, ready, config.check_interval_s)
        services.provide(KeyVault, self._vault)

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        """Start even when the vault cannot serve: entries must be accepted without it."""
        try:
            if not services.get(DeploymentInfo).serving:
                yield
                return
            path = self.config.master_key.file
            if self.config.create_master_key and path is not None:
                holders = services.get(WrappedSecretsRegistry).by_name.values()
                await first_start(self._vault, path, holders, services.get(Console))
            await self._watch.look()
            async with self._watch.run(services.get(Background)):
                yield
        finally:
            await self._vault.close()
