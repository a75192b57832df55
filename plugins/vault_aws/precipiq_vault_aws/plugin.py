"""Wiring of ``vault_aws``: what it provides and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import ClassVar

import structlog

from precipiq_contracts.background import Background
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.errors import PrecipiqError
from precipiq_contracts.services import Services
from precipiq_contracts.vault import KeyVault
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_shared.extras import require_extra
from precipiq_vault_aws.config import VaultAwsConfig
from precipiq_vault_aws.kms import KmsSettings
from precipiq_vault_aws.service import AwsVault

log = structlog.get_logger("precipiq.vault")


class VaultAwsPlugin(PluginBase[VaultAwsConfig]):
    """Secrets wrapped with a key of AWS KMS."""

    name = "vault_aws"
    Config = VaultAwsConfig
    provides: ClassVar[tuple[type, ...]] = (KeyVault,)

    def __init__(self, config: VaultAwsConfig) -> None:
        require_extra("plugins.vault_aws", "boto3", "precipiq-vault-aws[aws]", "aws")
        super().__init__(config)

    @hookimpl
    def provide(self, services: Services) -> None:
        self._vault = AwsVault(KmsSettings(**self.config.model_dump()))
        services.provide(KeyVault, self._vault)

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        """Opens whatever becomes of KMS, and does not wait for it: entries must flow in without it."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._vault.close)
            if services.get(DeploymentInfo).serving:
                background = services.get(Background)
                checking = background(
                    "vault_aws.check", self._check, every_s=None, failing="the vault cannot be looked at"
                )
                await stack.enter_async_context(checking)
            yield

    async def _check(self) -> None:
        try:
            log.info("the vault can serve", detail=await self._vault.check())
        except PrecipiqError as error:
            log.critical("the vault cannot serve: nothing can be wrapped or signed", reason=error.message)
