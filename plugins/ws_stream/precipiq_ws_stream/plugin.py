"""Wiring of ``ws_stream``: what it contributes and runs. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry

from precipiq_core.clock import Clock
from precipiq_core.contracts.auth import AddressLimiter
from precipiq_core.contracts.background import Background
from precipiq_core.contracts.deployment import DeploymentInfo
from precipiq_core.contracts.ledger import Ledger
from precipiq_core.contracts.plans import Plans
from precipiq_core.contracts.registries import EntryKinds
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_core.services import Services
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
    optional: ClassVar[tuple[type, ...]] = (Plans,)

    @hookimpl
    def provide(self, services: Services) -> None:
        streams = Streams(
            services.get(Ledger),  # type: ignore[type-abstract]
            services.get(AddressLimiter),  # type: ignore[type-abstract]
            services.get(Clock),  # type: ignore[type-abstract]
            self.config,
            StreamMetrics(services.get(CollectorRegistry)),
            services.find(Plans),  # type: ignore[type-abstract]
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
        kinds = services.get(EntryKinds).by_name  # type: ignore[type-abstract]
        background = services.get(Background)  # type: ignore[type-abstract]
        async with services.get(Streams).running(kinds, background):
            yield
