"""The one plugin that is part of core: it registers through the same hooks as everybody's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from precipiq_core.cli.vault_index import VAULT_COMMANDS
from precipiq_core.contracts.vault import KeyVault
from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
from precipiq_core.http.envelope import Answer, encode, send_answer
from precipiq_core.http.openapi_parts import Document
from precipiq_core.operations.docs import CONTENT_SECURITY_POLICY, docs_page
from precipiq_core.operations.health import healthz, readyz
from precipiq_core.operations.metrics import metrics_page
from precipiq_core.plugin import PluginBase, PluginConfig, hookimpl
from precipiq_core.services import Services

if TYPE_CHECKING:
    import click


class Operations(PluginBase[PluginConfig]):
    """``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json`` and ``/docs``: without a key, without tenant data."""

    name = "operations"

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._document = b"{}"
        self._page = b""

    def describe(self, document: Document) -> None:
        """Say what ``/openapi.json`` serves, once everybody's endpoints are known."""
        self._document = encode(document)
        self._page = docs_page(document).encode()

    @hookimpl
    def routes(self, services: Services) -> Sequence[Endpoint | PlainEndpoint]:
        def pings() -> Mapping[str, Callable[[], Awaitable[None]]]:
            return services.pings

        metrics = metrics_page(services.get(CollectorRegistry))
        return [
            PlainEndpoint("/healthz", healthz, "The process answers", "application/json"),
            PlainEndpoint("/readyz", readyz(pings), "Every part can serve", "application/json"),
            PlainEndpoint("/metrics", metrics, "Prometheus metrics", "application/openmetrics-text"),
            PlainEndpoint("/openapi.json", self._openapi, "This interface as OpenAPI 3.1", "application/json"),
            PlainEndpoint("/docs", self._docs, "This interface as a page to read", "text/html"),
        ]

    @hookimpl
    def commands(self, services: Services) -> Sequence[click.Command]:
        return () if services.find(KeyVault) is None else VAULT_COMMANDS  # type: ignore[type-abstract]

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(send, Answer(200, self._document))

    async def _docs(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())
        await send_answer(send, Answer(200, self._page, ((b"content-type", b"text/html; charset=utf-8"), policy)))
