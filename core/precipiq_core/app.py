"""The ASGI application of an assembly: the layers around the routes, and the lifespan of everything that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_contracts.auth import RateLimiter
from precipiq_core import __version__
from precipiq_core.boot import Assembly
from precipiq_core.http.body import BodyLimits
from precipiq_core.http.download import Times
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.error_boundary import ErrorBoundary
from precipiq_core.http.openapi import openapi_document
from precipiq_core.http.router import build_router
from precipiq_core.logs.credential_shield import CredentialShield
from precipiq_core.logs.request_log import RequestLog
from precipiq_core.logs.sink import Sink
from precipiq_core.operations.metrics import RequestMetrics
from precipiq_core.operations.plugin import Operations
from precipiq_core.running import running
from precipiq_core.serving.drain import DrainGate
from precipiq_core.serving.head_limit import HeadLimit
from precipiq_core.serving.proxies import TrustedProxies
from precipiq_core.serving.security_headers import SecurityHeaders
from precipiq_core.serving.unread_body import UnreadBody

log = structlog.get_logger("precipiq.app")


class Application:
    """One deployment as an ASGI application. ``gate`` lets the server drain it; ``access_sink``: see ``RequestLog``."""

    def __init__(self, assembly: Assembly, access_sink: Sink | None = None) -> None:
        self.assembly = assembly
        router = _router(assembly)
        _describe(assembly)
        self.gate = DrainGate(_layers(assembly, router, access_sink))
        self._http = UnreadBody(self.gate)
        # Starlette speaks the lifespan protocol; requests do not pass through it, so no plugin sees that scope.
        self._lifespan = Starlette(lifespan=self._run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._lifespan if scope["type"] == "lifespan" else self._http
        await app(scope, receive, send)

    @asynccontextmanager
    async def _run(self, _: object) -> AsyncIterator[None]:
        async with running(self.assembly):
            yield


def _router(assembly: Assembly) -> ASGIApp:
    http = assembly.deployment.http
    edge = Edge(
        authenticators=[item.value for item in assembly.authenticators],
        rate_limiter=assembly.services.find(RateLimiter),
        limits=BodyLimits(http.body_bytes_max, http.body_timeout_s, http.depth_max),
        times=Times(http.handler_timeout_s, http.download_stall_timeout_s),
        clock=assembly.clock,
    )
    endpoints = [(item.owner, item.value) for item in assembly.endpoints]
    plain = [(item.owner, item.value) for item in assembly.plain_endpoints]
    websockets = [(item.owner, item.value) for item in assembly.websocket_endpoints]
    return build_router(endpoints, plain, websockets, edge)


def _layers(assembly: Assembly, router: ASGIApp, access_sink: Sink | None) -> ASGIApp:
    """The middleware around the router; read from the bottom up, the last one is the outermost."""
    app: ASGIApp = router
    for layer in ("app", "edge"):
        for item in reversed(assembly.middleware):
            if item.value.layer == layer:
                app = item.value.wrap(app)
    app = ErrorBoundary(app)
    server = assembly.deployment.server
    app = HeadLimit(app, fields_max=server.header_fields_max, bytes_max=server.header_bytes_max)
    app = SecurityHeaders(app)
    metrics = RequestMetrics(assembly.services.get(CollectorRegistry))
    clock, randomness = assembly.clock, assembly.randomness
    app = RequestLog(
        app,
        clock=clock,
        randomness=randomness,
        observe=metrics.observe,
        sink=access_sink,
        failures_only=assembly.deployment.logs.level in ("warning", "error"),
    )
    app = CredentialShield(app)
    return TrustedProxies(app, server.trusted_proxies)


def _describe(assembly: Assembly) -> None:
    operations = assembly.plugins["operations"]
    assert isinstance(operations, Operations)
    operations.describe(
        openapi_document(
            [(item.owner, item.value) for item in assembly.endpoints],
            [(item.owner, item.value) for item in assembly.plain_endpoints],
            [(item.owner, item.value) for item in assembly.websocket_endpoints],
            title="Precipiq decision ledger",
            version=__version__,
        )
    )
