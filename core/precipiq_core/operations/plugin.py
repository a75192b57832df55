"""The one plugin that is part of core: it registers through the same hooks as everybody's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from precipiq_core.cli.vault_index import VAULT_COMMANDS
from precipiq_core.contracts.background import Background
from precipiq_core.contracts.vault import KeyVault
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.services import Services

if TYPE_CHECKING:
    import click

    from precipiq_core.http.endpoint import PlainEndpoint
    from precipiq_core.http.openapi_parts import Document
    from precipiq_core.operations.pages import Pages


class Operations(PluginBase[PluginConfig]):
    """``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json`` and ``/docs``: without a key, without tenant data."""

    name = "operations"

    _pages: Pages

    def describe(self, document: Document) -> None:
        """Say what ``/openapi.json`` serves, once everybody's endpoints are known."""
        self._pages.describe(document)

    @hookimpl
    def routes(self, services: Services) -> Sequence[PlainEndpoint]:
        from prometheus_client import CollectorRegistry

        from precipiq_core.operations.pages import Pages

        background = services.get(Background)  # type: ignore[type-abstract]

        def pings() -> Mapping[str, Callable[[], Awaitable[None]]]:
            return {**services.pings, **background.pings}

        self._pages = Pages(pings, services.get(CollectorRegistry))
        return self._pages.endpoints()

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return () if services.find(KeyVault) is None else VAULT_COMMANDS  # type: ignore[type-abstract]
