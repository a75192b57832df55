"""The gate every request passes: counts what runs, and at the end lets it finish, then closes or cancels the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precipiq_core.errors import Unavailable
from precipiq_core.http.envelope import error_answer

log = structlog.get_logger("precipiq.serving")

SERVICE_RESTART = 1012  # RFC 6455 registry: the service restarts; reconnect

WEBSOCKET_CLOSER = "precipiq.close_websocket"
"""Scope key under which a WebSocket's application may put an ``async () -> None`` of its own that closes it."""


class DrainGate:
    """Open until :meth:`drain` is called."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._draining = False
        self._requests: set[asyncio.Task[object]] = set()
        self._websockets: dict[asyncio.Task[object], Callable[[], Awaitable[None]]] = {}
        self._empty = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether the end has begun."""
        return self._draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve_request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._draining:
            await _refuse(send)
            return
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._draining:
                raise
            with suppress(Exception):  # when the answer had begun, the server refuses a second one
                await _refuse(send)
        finally:
            self._requests.discard(task)
            self._note_empty()

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._draining:
            await send({"type": "websocket.close", "code": SERVICE_RESTART})
            return
        task = asyncio.current_task()
        assert task is not None

        async def close() -> None:
            await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "restarting"})

        self._websockets[task] = lambda: scope.get(WEBSOCKET_CLOSER, close)()
        try:
            await self._app(scope, receive, send)
        finally:
            self._websockets.pop(task, None)
            self._note_empty()

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new, close WebSockets, wait for running requests, cancel what is left at the deadline."""
        self._draining = True
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        closing = [asyncio.ensure_future(close()) for close in self._websockets.values()]
        if closing:
            await asyncio.wait(closing, timeout=timeout_s / 2)
        self._note_empty()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._empty.wait()
        left = [*self._requests, *self._websockets]
        if left:
            log.warning("requests cut off at the end of the drain", count=len(left))
        for task in [*closing, *left]:
            task.cancel()

    def _note_empty(self) -> None:
        if self._draining and not self._requests and not self._websockets:
            self._empty.set()


async def _refuse(send: Send) -> None:
    answer = error_answer(Unavailable("the server is stopping; try again", retry_after_s=2))
    headers = [*answer.headers, (b"connection", b"close")]
    await send(_start(answer.status, headers))
    await send({"type": "http.response.body", "body": answer.body})


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}
