"""Wiring of ``ws_stream``: what it contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry

from precipiq_contracts.auth import AddressLimiter
from precipiq_contracts.background import Background
from precipiq_contracts.clock import Clock
from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.ledger import ChainAudit, Ledger
from precipiq_contracts.plans import Plans
from precipiq_contracts.registries import EntryKinds
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.metrics import StreamMetrics
from precipiq_ws_stream.service import Streams

if TYPE_CHECKING:
    from precipiq_core.http.endpoint import Endpoint
    from precipiq_core.http.websocket import WebSocketEndpoint


class WsStreamPlugin(PluginBase[WsStreamConfig]):
    """The ledger as a live stream."""

    name = "ws_stream"
    Config = WsStreamConfig
    provides: ClassVar[tuple[type, ...]] = (Streams,)
    requires: ClassVar[tuple[type, ...]] = (Ledger, AddressLimiter)
    optional: ClassVar[tuple[type, ...]] = (Plans, ChainAudit)

    @hookimpl
    def provide(self, services: Services) -> None:
        streams = Streams(
            services.get(Ledger),
            services.get(AddressLimiter),
            services.get(Clock),
            self.config,
            StreamMetrics(services.get(CollectorRegistry)),
            services.find(Plans),
            services.find(ChainAudit),
        )
        services.provide(Streams, streams)

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint | WebSocketEndpoint]:
        from precipiq_ws_stream.routes import StreamRoutes

        return StreamRoutes(services.get(Streams), self.config).endpoints()

    @hookimpl
    def lifespan(self, services: Services) -> AbstractAsyncContextManager[object]:
        return self._run(services)

    @asynccontextmanager
    async def _run(self, services: Services) -> AsyncIterator[None]:
        if not services.get(DeploymentInfo).serving:
            yield
            return
        kinds = services.get(EntryKinds).by_name
        background = services.get(Background)
        async with services.get(Streams).run(kinds, background):
            yield
