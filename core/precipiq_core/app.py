"""The ASGI application of an assembly: the layers around the routes, in one list, and its lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_contracts.auth import RateLimiter
from precipiq_contracts.clock import Clock, Randomness
from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError
from precipiq_core.boot import Assembly
from precipiq_core.edge.credential_shield import CredentialShield
from precipiq_core.edge.error_boundary import ErrorBoundary
from precipiq_core.edge.head_limit import HeadLimit, HeadRefusal
from precipiq_core.edge.request_log import RequestLog
from precipiq_core.edge.request_metrics import RequestMetrics
from precipiq_core.edge.security_headers import SecurityHeaders
from precipiq_core.http.endpoint_app import Edge
from precipiq_core.http.request_keys import RequestKeys
from precipiq_core.http.request_work import RequestWork
from precipiq_core.http.router import build_router
from precipiq_core.running import run_lifespans
from precipiq_logs.sink import Sink
from precipiq_work.off_loop import OffLoop


class Application:
    """One deployment as an ASGI application. ``access_sink``: see ``RequestLog``."""

    def __init__(self, assembly: Assembly, access_sink: Sink | None = None) -> None:
        self.assembly = assembly
        app: ASGIApp = build_router(assembly.of("routes"), _edge(assembly))
        for layer in reversed(_layers(assembly, access_sink)):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        self._http = app
        # Starlette speaks the lifespan protocol; requests do not pass through it, so no plugin sees that scope.
        self._lifespan = Starlette(lifespan=self._run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._lifespan if scope["type"] == "lifespan" else self._http
        await app(scope, receive, send)

    @asynccontextmanager
    async def _run(self, _: object) -> AsyncIterator[None]:
        async with run_lifespans(self.assembly):
            yield


def _layers(assembly: Assembly, access_sink: Sink | None) -> Sequence[Middleware]:
    """The middleware around the router, outermost first. The server adds its own outside, so ``client`` is correct."""
    server, services = assembly.server, assembly.services
    metrics = RequestMetrics(services.get(CollectorRegistry))
    return [
        Middleware(HeadLimit, fields_max=server.header_fields_max, bytes_max=server.header_bytes_max),
        Middleware(CredentialShield),  # removes the key from the scope: outer layers may see it, and log nothing
        Middleware(
            RequestLog,
            clock=services.get(Clock),
            randomness=services.get(Randomness),
            observe=metrics.observe,
            sink=access_sink,
            failures_only=assembly.deployment.logs.level in ("warning", "error"),
        ),
        Middleware(SecurityHeaders),
        Middleware(HeadRefusal),
        Middleware(ErrorBoundary),
        *_of_plugins(assembly, "edge"),
        *_of_plugins(assembly, "app"),
    ]


def _of_plugins(assembly: Assembly, layer: str) -> list[Middleware]:
    return [Middleware(partial(_wrap, item)) for item in assembly.of("middleware") if item.value.layer == layer]


def _wrap(item: Contribution[Any], app: ASGIApp) -> ASGIApp:
    try:
        wrapped: ASGIApp = item.value.wrap(app)
    except Exception as error:
        raise DeploymentError([f"plugin {item.owner}, hook middleware: {type(error).__name__}: {error}"]) from error
    return wrapped


def _edge(assembly: Assembly) -> Edge:
    return Edge(
        authenticators=[item.value for item in assembly.of("authenticators")],
        rate_limiter=assembly.services.find(RateLimiter),
        http=assembly.deployment.http,
        clock=assembly.services.get(Clock),
        work=RequestWork(assembly.deployment.http, assembly.services.get(OffLoop)),
        request_keys=assembly.services.find(RequestKeys),
    )
