"""The pages of ``operations``: public, and without the envelope."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from precipiq_contracts.registries import Routes
from precipiq_core import __version__
from precipiq_core.http.endpoint import AnyQuery, Endpoint, Handler, NoBody, PublicCall
from precipiq_core.http.envelope import Answer, encode
from precipiq_operations.docs import CONTENT_SECURITY_POLICY, docs_page
from precipiq_operations.openapi import openapi_document
from precipiq_operations.openapi_parts import Document
from precipiq_operations.service import Readiness

Request: TypeAlias = PublicCall[NoBody, AnyQuery]


class MetricsPage(Answer):
    media_type: ClassVar[str] = "application/openmetrics-text"


class HtmlPage(Answer):
    media_type: ClassVar[str] = "text/html"


class Pages:
    """The pages that every deployment serves without a key. ``routes``: the sources of the interface's description."""

    def __init__(self, readiness: Readiness, registry: CollectorRegistry, routes: Routes) -> None:
        self._readiness = readiness
        self._registry = registry
        self._interface = _Interface(routes)

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            _page("/healthz", healthz, Answer),
            _page("/readyz", self.readyz, Answer),
            _page("/metrics", self.metrics, MetricsPage),
            _page("/openapi.json", self.openapi, Answer),
            _page("/docs", self.docs, HtmlPage),
        ]

    async def readyz(self, call: Request) -> Answer:
        """Every part can serve."""
        parts = await self._readiness.parts()
        is_ready = all(parts.values())
        names = {name: "ok" if result else "failed" for name, result in parts.items()}
        content = {"status": "ready" if is_ready else "not ready", "parts": names}
        return Answer(200 if is_ready else 503, encode(content))

    async def metrics(self, call: Request) -> Answer:
        """Prometheus metrics."""
        # In a thread: several workers share their metrics in files.
        body: bytes = await asyncio.to_thread(generate_latest, self._registry)
        return MetricsPage(200, body, ((b"content-type", CONTENT_TYPE_LATEST.encode()),))

    async def openapi(self, call: Request) -> Answer:
        """This interface as OpenAPI 3.1."""
        # Once, and in a thread: it takes a tenth of a second.
        return Answer(200, await asyncio.to_thread(lambda: self._interface.json))

    async def docs(self, call: Request) -> Answer:
        """This interface as a page to read."""
        page = await asyncio.to_thread(lambda: self._interface.page)
        policy = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())
        return HtmlPage(200, page, ((b"content-type", b"text/html; charset=utf-8"), policy))


async def healthz(call: Request) -> Answer:
    """The process answers."""
    # It says nothing of its parts, so that a broken database restarts nothing.
    return Answer(200, encode({"status": "ok"}))


def _page(path: str, handler: Handler, output: type[Answer]) -> Endpoint:
    return Endpoint("GET", path, handler, None, output, query=AnyQuery, absolute=True)


class _Interface:
    """The interface's description, made at the first request."""

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
