"""Paths to endpoints: a Starlette router whose every answer, 404 and 405 too, has the documented shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError, MethodNotAllowed, NotFound, UpgradeRequired
from precipiq_core.http.endpoint import Endpoint, PlainEndpoint
from precipiq_core.http.endpoint_app import Edge, EndpointApp
from precipiq_core.http.envelope import error_answer, send_answer
from precipiq_core.http.websocket import Socket, WebSocketApp, WebSocketEndpoint

API_PREFIX = "/api/v1"


def full_path(route: Endpoint | PlainEndpoint | WebSocketEndpoint) -> str:
    """The route's path from the root."""
    return API_PREFIX + route.path if isinstance(route, Endpoint) and not route.absolute else route.path


def build_router(routes: Iterable[Contribution[Endpoint | PlainEndpoint | WebSocketEndpoint]], edge: Edge) -> ASGIApp:
    """The application for all routes, each with its owner. Raises ``DeploymentError`` on a clash."""
    problems: list[str] = []
    owners: dict[tuple[str, str], str] = {}
    by_path: dict[str, dict[str, ASGIApp]] = {}
    sockets: dict[str, ASGIApp] = {}
    headless: set[str] = set()
    for owner, route in ((item.owner, item.value) for item in routes):
        path = full_path(route)
        method = "GET" if isinstance(route, WebSocketEndpoint) else route.method
        _claim(owners, method, path, owner, problems)
        methods = by_path.setdefault(path, {})
        if isinstance(route, Endpoint):
            methods[method] = EndpointApp(route, edge, path)
            if method == "GET" and not route.has_head:
                headless.add(path)
        elif isinstance(route, PlainEndpoint):
            methods[method] = _Named(route.app, path)
        else:
            if "{" in path:
                problems.append(f"{owner}: the path of a WebSocket takes no parameters: {path}")
            methods[method] = _Named(_upgrade_required, path)
            sockets[path] = WebSocketApp(route, edge)
    if problems:
        raise DeploymentError(problems)
    return _Paths({path: _Methods(apps, has_head=path not in headless) for path, apps in by_path.items()}, sockets)


def _claim(owners: dict[tuple[str, str], str], method: str, path: str, owner: str, problems: list[str]) -> None:
    if (method, path) in owners:
        problems.append(f"{method} {path} is claimed by both {owners[method, path]} and {owner}")
    owners[method, path] = owner


class _Paths:
    """Fixed paths by a look-up, before those with parameters, so that ``/decisions/batch`` is not taken for an id."""

    def __init__(self, apps: Mapping[str, ASGIApp], sockets: Mapping[str, ASGIApp]) -> None:
        self._sockets = dict(sockets)
        self._fixed = {path: app for path, app in apps.items() if "{" not in path}
        routes = [Route(path, endpoint=app) for path, app in apps.items() if "{" in path]
        self._router = Router(routes, redirect_slashes=False, default=not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            app = self._sockets.get(scope["path"], _no_websocket)
        else:
            app = self._fixed.get(scope["path"], self._router)
        await app(scope, receive, send)


class _Methods:
    """One path: its methods to their applications; the rest is 405 with ``Allow``. A stream has no HEAD."""

    def __init__(self, apps: Mapping[str, ASGIApp], *, has_head: bool) -> None:
        self._apps = dict(apps)
        has_head = has_head and "GET" in apps
        allowed = sorted({*apps, "HEAD"} if has_head else apps)
        self._allow = (b"allow", ", ".join(allowed).encode())
        if has_head:
            self._apps["HEAD"] = apps["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._apps.get(scope["method"])
        if app is not None:
            await app(scope, receive, send)
            return
        await send_answer(send, error_answer(MethodNotAllowed()), [self._allow])


class _Named:
    """Tells the request log which route it was."""

    def __init__(self, app: ASGIApp, route: str) -> None:
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["precipiq.route"] = self._route
        await self._app(scope, receive, send)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer for a path that nothing claims."""
    await send_answer(send, error_answer(NotFound()))


async def _no_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await Socket(scope, receive, send, None).refuse(NotFound())


async def _upgrade_required(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    await send_answer(send, error_answer(UpgradeRequired()), headers if scope["http_version"] == "1.1" else ())
