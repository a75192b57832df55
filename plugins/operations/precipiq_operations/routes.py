"""The pages of ``operations``: each an ASGI application without a key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from precipiq_contracts.registries import Routes
from precipiq_core import __version__
from precipiq_core.http.endpoint import PlainEndpoint
from precipiq_core.http.envelope import Answer, encode, send_answer
from precipiq_operations.docs import CONTENT_SECURITY_POLICY, docs_page
from precipiq_operations.openapi import openapi_document
from precipiq_operations.openapi_parts import Document
from precipiq_operations.service import Readiness


class Pages:
    """What every deployment serves without a key. ``routes``: what the interface is described from."""

    def __init__(self, readiness: Readiness, registry: CollectorRegistry, routes: Routes) -> None:
        self._readiness = readiness
        self._registry = registry
        self._interface = _Interface(routes)

    def endpoints(self) -> Sequence[PlainEndpoint]:
        return [
            PlainEndpoint("/healthz", _healthz, "The process answers", "application/json"),
            PlainEndpoint("/readyz", self._readyz, "Every part can serve", "application/json"),
            PlainEndpoint("/metrics", self._metrics, "Prometheus metrics", "application/openmetrics-text"),
            PlainEndpoint("/openapi.json", self._openapi, "This interface as OpenAPI 3.1", "application/json"),
            PlainEndpoint("/docs", self._docs, "This interface as a page to read", "text/html"),
        ]

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = await self._readiness.parts()
        is_ready = all(parts.values())
        names = {name: "ok" if result else "failed" for name, result in parts.items()}
        content = {"status": "ready" if is_ready else "not ready", "parts": names}
        await send_answer(send, Answer(200 if is_ready else 503, encode(content)))

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In a thread: what several workers share is read from files.
        body: bytes = await asyncio.to_thread(generate_latest, self._registry)
        await send_answer(send, Answer(200, body, ((b"content-type", CONTENT_TYPE_LATEST.encode()),)))

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Once, and in a thread: it takes a tenth of a second.
        await send_answer(send, Answer(200, await asyncio.to_thread(lambda: self._interface.json)))

    async def _docs(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = await asyncio.to_thread(lambda: self._interface.page)
        policy = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())
        await send_answer(send, Answer(200, page, ((b"content-type", b"text/html; charset=utf-8"), policy)))


async def _healthz(scope: Scope, receive: Receive, send: Send) -> None:
    """The process is alive; says nothing of its parts, so that a broken database restarts nothing."""
    await send_answer(send, Answer(200, encode({"status": "ok"})))


class _Interface:
    """The interface, described when somebody first asks."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    @cached_property
    def _document(self) -> Document:
        return openapi_document(self._routes.contributions, title="Precipiq decision ledger", version=__version__)

    @cached_property
    def json(self) -> bytes:
        return encode(self._document)

    @cached_property
    def page(self) -> bytes:
        return docs_page(self._document).encode()
