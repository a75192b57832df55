"""Wiring of ``hypercorn``: its capabilities. Decides nothing."""

from __future__ import annotations

from typing import ClassVar

from prometheus_client import CollectorRegistry

from precipiq_contracts.deployment import DeploymentInfo
from precipiq_contracts.server import Server
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_hypercorn.config import HypercornConfig
from precipiq_hypercorn.door import Door
from precipiq_hypercorn.server import HypercornServer


class HypercornPlugin(PluginBase[HypercornConfig]):
    """The server. Provides the registry of metrics too, because workers count in files that they share."""

    name = "hypercorn"
    Config = HypercornConfig
    provides: ClassVar[tuple[type, ...]] = (Server, CollectorRegistry)

    def check_serving(self) -> None:
        if self.config.tls is not None:
            from precipiq_hypercorn.hypercorn_config import tls_context

            tls_context(self.config.tls)

    @hookimpl
    def provide(self, services: Services) -> None:
        info = services.get(DeploymentInfo)
        worker, registry = None, CollectorRegistry(auto_describe=False)
        if info.seat is not None:
            from precipiq_hypercorn.shared_metrics import share_metrics
            from precipiq_hypercorn.worker import Seat, Worker

            worker = Worker(Seat.parse(info.seat))
            registry = share_metrics(worker.number)
        services.provide(CollectorRegistry, registry)
        services.provide(Server, HypercornServer(self.config, worker, Door(registry)))
