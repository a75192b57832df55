"""Wiring of ``bundles_s3``: what it provides and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

from precipiq_bundles_s3.bucket import BucketSettings
from precipiq_bundles_s3.config import BundlesS3Config
from precipiq_bundles_s3.service import S3Bundles
from precipiq_contracts.bundle_store import BundleStore
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_shared.extras import require_extra


class BundlesS3Plugin(PluginBase[BundlesS3Config]):
    """Export bundles in an S3-compatible store."""

    name = "bundles_s3"
    Config = BundlesS3Config
    provides: ClassVar[tuple[type, ...]] = (BundleStore,)

    def __init__(self, config: BundlesS3Config) -> None:
        require_extra("plugins.bundles_s3", "boto3", "precipiq-bundles-s3[aws]", "aws")
        super().__init__(config)

    @hookimpl
    def provide(self, services: Services) -> None:
        self._bundles = S3Bundles(BucketSettings(**self.config.model_dump()))
        services.provide(BundleStore, self._bundles)

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._bundles.close()
