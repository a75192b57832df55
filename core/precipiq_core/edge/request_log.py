"""Gives each request an id, writes its access line, and counts it. Never logs the query string or a header."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from precipiq_contracts.clock import Clock, Randomness, format_timestamp
from precipiq_logs.scrub import Scrubber
from precipiq_logs.sink import Sink

Observe = Callable[[str, str, int, float], None]

_OWN_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_ID_BATCH = 64
_ID_BYTES = 12
_PATH_LENGTH_MAX = 500
_ANSWER_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))


class RequestLog:
    """``observe(method, route, status, duration_s)`` is called once per request. ``sink``: None writes no line.

    A WebSocket gets its line when it ends, with 101 or the status that refused it; the metrics are of HTTP alone.
    ``failures_only``: for log levels above info.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        clock: Clock,
        randomness: Randomness,
        observe: Observe,
        sink: Sink | None,
        failures_only: bool = False,
    ) -> None:
        self._app = app
        self._clock = clock
        self._randomness = randomness
        self._observe = observe
        self._sink = sink
        self._scrubber = sink.scrubber if sink is not None else Scrubber()
        self._failures_only = failures_only
        self._ids: list[str] = []
        self._encode_route = lru_cache(256)(self._encode_path)  # a path without parameters is its route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = scope["precipiq.request_id"] = self._request_id(scope)
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        start_s = self._clock.monotonic_s()
        header = (b"x-request-id", request_id.encode())
        status, size = 0, 0

        async def send_and_count(message: Message) -> None:
            nonlocal status, size
            kind = message["type"]
            if kind in _ANSWER_STARTS:
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", ()), header]
            elif kind == "websocket.close":
                status = status or 403
            else:
                size += len(message.get("body") or message.get("bytes") or message.get("text") or b"")
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            duration_s = self._clock.monotonic_s() - start_s
            # 499: nginx's status for a client that left before the answer began.
            self._note(scope, request_id, status or 499, size, duration_s)

    def _note(self, scope: Scope, request_id: str, status: int, size: int, duration_s: float) -> None:
        route = scope.get("precipiq.route", "")
        # A client may invent any number of methods: neither the metrics nor the log repeat them.
        method = scope.get("method", "GET")
        if method not in _METHODS:
            method = "OTHER"
        if scope["type"] == "http":
            self._observe(method, route, status, duration_s)
        if self._sink is None or (self._failures_only and status < 500):
            return
        client = scope.get("client")
        org_id, key_id = scope.get("precipiq.principal_ids", (None, None))
        # Only the path comes from the client: the server makes the rest of the line, which needs no scrubbing.
        self._sink.write_clean(
            orjson.dumps(
                {
                    "timestamp": format_timestamp(self._clock.now_us()),
                    "level": "error" if status >= 500 else "info",
                    "logger": "precipiq.access",
                    "event": "request" if scope["type"] == "http" else "websocket",
                    "request_id": request_id,
                    "method": method,
                    "route": route,
                    "path": (self._encode_route if scope["path"] == route else self._encode_path)(scope["path"]),
                    "status": status,
                    "duration_ms": round(duration_s * 1000, 2),
                    "bytes_out": size,
                    "client": client[0] if client else None,
                    "org_id": org_id,
                    "key_id": key_id,
                }
            )
        )

    def _encode_path(self, text: str) -> orjson.Fragment:
        """Scrub, then cut, so that no part of a secret is left at the cut."""
        if len(text) > _PATH_LENGTH_MAX:
            text = self._scrubber.line(text.encode("utf-8", "replace")).decode("utf-8", "replace")[:_PATH_LENGTH_MAX]
        return orjson.Fragment(self._scrubber.line(orjson.dumps(text.encode("utf-8", "replace").decode())))

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                if _OWN_ID.fullmatch(value) and self._scrubber.line(value) == value:
                    return str(value.decode())
                break
        if not self._ids:
            digits = self._randomness.bytes(_ID_BATCH * _ID_BYTES).hex()
            size = 2 * _ID_BYTES
            self._ids = ["req_" + digits[start : start + size] for start in range(0, len(digits), size)]
        return self._ids.pop()
