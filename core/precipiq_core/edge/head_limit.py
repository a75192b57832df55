"""Refuses oversized request heads before another layer reads them: servers bound only heads that arrive in pieces."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_core.http.envelope import error_answer, send_answer
from precipiq_core.http.errors import HeadersTooLarge

_IS_TOO_LARGE = "precipiq.head_too_large"
_PATH_LENGTH_MAX = 500
_POLICY_VIOLATION = 1008


class HeadLimit:
    """Removes a head with too many fields or bytes from the request: no layer below sees it. The outermost layer.

    The bytes are those of path, query and fields.
    """

    def __init__(self, app: ASGIApp, *, fields_max: int, bytes_max: int) -> None:
        self._app = app
        self._fields_max = fields_max
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self._is_too_large(scope):
            path = scope["path"] if len(scope["path"]) <= _PATH_LENGTH_MAX else "/(not read)"
            rest: dict[str, object] = {"path": path, "raw_path": b"/", "query_string": b"", "headers": []}
            scope = {**scope, **rest, _IS_TOO_LARGE: True}
        await self._app(scope, receive, send)

    def _is_too_large(self, scope: Scope) -> bool:
        headers = scope["headers"]
        size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        return len(headers) > self._fields_max or size + sum([len(a) + len(b) for a, b in headers]) > self._bytes_max


class HeadRefusal:
    """Answers such a request with 431, and closes such a WebSocket; below the layers that log answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _IS_TOO_LARGE not in scope:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send_answer(send, error_answer(HeadersTooLarge()))
        else:
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
