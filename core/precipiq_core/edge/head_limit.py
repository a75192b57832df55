"""Refuses oversized request heads: Hypercorn bounds only heads that arrive in pieces."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from precipiq_core.http.envelope import error_answer, send_answer
from precipiq_core.http.errors import HeadersTooLarge


class HeadLimit:
    """Answers 431 for too many header fields, or bytes of request line and headers."""

    def __init__(self, app: ASGIApp, *, fields_max: int, bytes_max: int) -> None:
        self._app = app
        self._fields_max = fields_max
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_too_large(scope):
            await send_answer(send, error_answer(HeadersTooLarge()))
            return
        await self._app(scope, receive, send)

    def _is_too_large(self, scope: Scope) -> bool:
        headers = scope["headers"]
        size = len(scope.get("raw_path", b"")) + len(scope["query_string"])
        return len(headers) > self._fields_max or size + sum([len(a) + len(b) for a, b in headers]) > self._bytes_max
