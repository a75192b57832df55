"""The interface as OpenAPI and as a page to read: written when everybody's endpoints are known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from precipiq_core.http.endpoint import PlainEndpoint
from precipiq_core.http.envelope import Answer, encode, send_answer
from precipiq_core.http.openapi_parts import Document
from precipiq_core.operations.docs import CONTENT_SECURITY_POLICY, docs_page
from precipiq_core.operations.health import healthz, readyz
from precipiq_core.operations.metrics import metrics_page


class Pages:
    """What every deployment serves without a key. ``pings``: of capabilities and tasks in the background, by name."""

    def __init__(
        self, pings: Callable[[], Mapping[str, Callable[[], Awaitable[None]]]], registry: CollectorRegistry
    ) -> None:
        self._readyz = readyz(pings)
        self._metrics = metrics_page(registry)
        self._document = b"{}"
        self._page = b""

    def describe(self, document: Document) -> None:
        """Say what ``/openapi.json`` and ``/docs`` serve."""
        self._document = encode(document)
        self._page = docs_page(document).encode()

    def endpoints(self) -> Sequence[PlainEndpoint]:
        return [
            PlainEndpoint("/healthz", healthz, "The process answers", "application/json"),
            PlainEndpoint("/readyz", self._readyz, "Every part can serve", "application/json"),
            PlainEndpoint("/metrics", self._metrics, "Prometheus metrics", "application/openmetrics-text"),
            PlainEndpoint("/openapi.json", self._openapi, "This interface as OpenAPI 3.1", "application/json"),
            PlainEndpoint("/docs", self._docs, "This interface as a page to read", "text/html"),
        ]

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(send, Answer(200, self._document))

    async def _docs(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())
        await send_answer(send, Answer(200, self._page, ((b"content-type", b"text/html; charset=utf-8"), policy)))
