"""Wiring of ``operations``: what it contributes. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from precipiq_contracts.background import Background
from precipiq_contracts.registries import Routes
from precipiq_contracts.services import Services
from precipiq_core.plugin import PluginBase, hookimpl
from precipiq_operations.command_index import COMMANDS
from precipiq_operations.config import OperationsConfig

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import Endpoint


class Operations(PluginBase[OperationsConfig]):
    """``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json`` and ``/docs``: without a key, without tenant data.

    Contributes ``precipiq vault`` too, which walks through all plugins' wrapped secrets.
    """

    name = "operations"
    Config = OperationsConfig

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint]:
        from prometheus_client import CollectorRegistry

        from precipiq_operations.routes import Pages
        from precipiq_operations.service import Readiness

        background = services.get(Background)
        readiness = Readiness(lambda: {**services.pings, **background.pings})
        return Pages(readiness, services.get(CollectorRegistry), services.get(Routes)).endpoints()

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return COMMANDS
