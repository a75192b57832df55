"""Paths to endpoints: a router whose every answer of its own, 404 and 405 too, has the documented shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import orjson
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError, NotFound
from precipiq_core.http.endpoint import Endpoint
from precipiq_core.http.endpoint_app import Edge, EndpointApp
from precipiq_core.http.envelope import DENIAL, JSON_TYPE, STATUS_OF, error_answer, send_answer, status_of_code
from precipiq_core.http.errors import MethodNotAllowed, UpgradeRequired
from precipiq_core.http.websocket import WebSocketEndpoint

API_PREFIX = "/api/v1"

_ANY_METHOD = "ANY"
_NAME = re.compile(r"\{\w+")
_PARAMETER = re.compile(r"\{[^}]*\}")
_KEYS = ("precipiq.credential", "precipiq.query_credential")
"""What an application that a plugin brings does not get: the documented endpoints check keys."""


def full_path(route: Endpoint | WebSocketEndpoint) -> str:
    """The route's path from the root."""
    return API_PREFIX + route.path if isinstance(route, Endpoint) and not route.absolute else route.path


def build_router(routes: Iterable[Contribution[Endpoint | WebSocketEndpoint | BaseRoute]], edge: Edge) -> ASGIApp:
    """The application for all routes, each with its owner. Raises ``DeploymentError`` on a clash."""
    claims = _Claims()
    by_path: dict[str, dict[str, ASGIApp]] = {}
    sockets: dict[str, ASGIApp] = {}
    brought: list[BaseRoute] = []
    headless: set[str] = set()
    methods: dict[str, ASGIApp]
    for owner, route in ((item.owner, item.value) for item in routes):
        if not claims.is_template(getattr(route, "path", "/"), owner):
            continue
        if isinstance(route, Endpoint):
            path = full_path(route)
            claims.problems += [
                f"plugin {owner}: {route.method} {path} names the error code {code!r} in errors, which no error has"
                for code in route.errors
                if status_of_code(code) is None
            ]
            methods = {route.method: EndpointApp(route, edge, path)}
            if route.method == "GET" and not route.answer.has_head:
                headless.add(path)
        elif isinstance(route, Route):
            path = route.path
            methods = dict.fromkeys(_methods(route), _Named(_document_errors(route.app), route.path_format))
        elif isinstance(route, WebSocketEndpoint | WebSocketRoute):
            path = route.path
            methods = {"GET": _Named(_require_upgrade, path)}
            if isinstance(route, WebSocketRoute):
                brought.append(route)
            elif "{" in path:
                claims.problems.append(f"{owner}: the path of a WebSocket takes no parameters: {path}")
            else:
                sockets[path] = route.make_app(route, edge)
        else:
            brought.append(route)
            if isinstance(route, Mount):
                claims.mount(route.path, owner)
            continue
        for method in methods:
            claims.claim(method, path, owner)
        by_path.setdefault(path, {}).update(methods)
    if problems := claims.problems + claims.find_shadowed():
        raise DeploymentError(problems)
    apps = {path: _Methods(methods, has_head=path not in headless) for path, methods in by_path.items()}
    return _Paths(apps, sockets, _document_errors(_Brought(brought)))


def _methods(route: Route) -> list[str]:
    """The methods that the route answers; GET implies HEAD."""
    methods = route.methods or {_ANY_METHOD}
    return sorted(methods - {"HEAD"} if "GET" in methods else methods)


class _Claims:
    """The owner of each path. Templates that differ in their names alone are the same path."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._methods: dict[str, dict[str, str]] = {}
        self._templates: dict[str, str] = {}
        self._paths: list[tuple[str, str]] = []
        self._mounts: dict[str, str] = {}

    def is_template(self, path: str, owner: str) -> bool:
        """Whether Starlette can read it; else it is a problem."""
        try:
            compile_path(path)
        except Exception as error:  # noqa: BLE001  (Starlette asserts, and raises what it likes)
            self.problems.append(f"{path} of {owner}: {error}")
            return False
        return True

    def claim(self, method: str, path: str, owner: str) -> None:
        shape = _NAME.sub("{", path)
        held, template = self._methods.setdefault(shape, {}), self._templates.setdefault(shape, path)
        taken = [held[each] for each in held if each == method or _ANY_METHOD in (each, method)]
        if taken:
            self.problems.append(f"{method} {path} is claimed by both {taken[0]} and {owner}")
        elif template != path:
            self.problems.append(f"{path} of {owner} is the path {template} with other names")
        held[method] = owner
        self._paths.append((path, owner))

    def mount(self, path: str, owner: str) -> None:
        if path in self._mounts:
            self.problems.append(f"everything under {path}/ is claimed by both {self._mounts[path]} and {owner}")
        self._mounts[path] = owner

    def find_shadowed(self) -> list[str]:
        """Paths below a mount of another plugin, or that another plugin's template takes as well.

        A mount at the root gets all other paths, and shadows none; no template shadows a path without parameters.
        """
        templates = [(path, compile_path(path)[0], owner) for path, owner in dict.fromkeys(self._paths) if "{" in path]
        return [
            f"{path} of {owner} is taken by {wider} of {other}: mount what is to get all other paths at the root"
            for wider, pattern, other in templates
            for path, _, owner in templates
            if owner != other and _NAME.sub("{", path) != _NAME.sub("{", wider)
            if pattern.match(_PARAMETER.sub("x", path))
        ] + [
            f"{path} of {owner} is below {above}/, which {other} mounted"
            for above, other in self._mounts.items()
            for path, owner in dict.fromkeys([*self._paths, *self._mounts.items()])
            if above and path.startswith(f"{above}/") and owner != other
        ]


class _Paths:
    """Fixed paths by a look-up, before those with parameters, so that ``/decisions/batch`` is not taken for an id."""

    def __init__(self, apps: Mapping[str, ASGIApp], sockets: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._sockets = dict(sockets)
        self._rest = rest
        self._fixed = {path: app for path, app in apps.items() if "{" not in path}
        routes = [Route(path, endpoint=app) for path, app in apps.items() if "{" in path]
        self._router = Router(routes, redirect_slashes=False, default=rest)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            app = self._sockets.get(scope["path"], self._rest)
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
        app = self._apps.get(scope["method"]) or self._apps.get(_ANY_METHOD)
        if app is not None:
            await app(scope, receive, send)
            return
        await send_answer(send, error_answer(MethodNotAllowed()), [self._allow])


class _Brought:
    """Plugins' routes beside endpoints and plain routes: mounted applications, Starlette's WebSockets, ..."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self._routes:
            match, changes = route.matches(scope)
            if match is Match.FULL:
                scope["precipiq.route"] = getattr(route, "path_format", "")
                # A copy: a mounted application sees another root path, and the layers around it do not.
                await route.handle({**_without_keys(scope), **changes}, receive, send)
                return
        if scope["type"] == "http":
            await send_answer(send, error_answer(NotFound()))
        elif DENIAL in (scope.get("extensions") or {}):
            await send_answer(send, error_answer(NotFound()), kind=DENIAL)
        else:
            await send({"type": "websocket.close", "code": 4404, "reason": NotFound.default_message})


class _Named:
    """Names the route for the request log."""

    def __init__(self, app: ASGIApp, route: str) -> None:
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["precipiq.route"] = self._route
        await self._app(_without_keys(scope), receive, send)


def _without_keys(scope: Scope) -> Scope:
    return {name: value for name, value in scope.items() if name not in _KEYS}


def _document_errors(app: ASGIApp) -> ASGIApp:
    """The application, with the documented shape for refusals of Starlette's parts."""
    return ExceptionMiddleware(app, {HTTPException: _refusal})


def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unnamed = "internal_error" if error.status_code >= 500 else "bad_request"
    code = next((code for code, status in STATUS_OF.items() if status == error.status_code), unnamed)
    body = orjson.dumps({"error": {"code": code, "message": error.detail}})
    return Response(body, error.status_code, {**(error.headers or {}), JSON_TYPE[0].decode(): JSON_TYPE[1].decode()})


async def _require_upgrade(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    await send_answer(send, error_answer(UpgradeRequired()), headers if scope["http_version"] == "1.1" else ())
