"""Cures a leak of Hypercorn 0.18: an answer before the body is read leaks task, socket and descriptor.

Hypercorn puts a last ``http.disconnect`` on a full queue from within the application's own last ``send``, and waits
without bound. So the queue is emptied while that send runs. After such an answer a bounded part of the body is awaited
for up to ``LINGER_TIMEOUT_S``, so that clients see the answer rather than a reset. An HTTP/1.1 client whose body may be
longer gets ``Connection: close``, so that it sends no other request on the connection.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_BYTES_MAX = 64 * 1024
LINGER_TIMEOUT_S = 1.0


class UnreadBody:
    """Must be the outermost layer: no other may be between it and the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            body = _Body(receive, send, may_outlast=_may_outlast(scope))
            await body.serve(self._app, scope)
        else:
            await self._app(scope, receive, send)


class _Body:
    """One request: tracks whether its body was read to the end."""

    __slots__ = ("_may_outlast", "_read", "_receive", "_send")

    def __init__(self, receive: Receive, send: Send, *, may_outlast: bool) -> None:
        self._receive = receive
        self._send = send
        self._may_outlast = may_outlast
        self._read = False

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self.receive, self.send)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._read = True
        return message

    async def send(self, message: Message) -> None:
        if self._may_outlast and not self._read and message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        if self._read or message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._linger()
        await self._drain_while(self._send({"type": "http.response.body", "body": b""}))

    async def _linger(self) -> None:
        count = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                while not self._read and count < LINGER_BYTES_MAX:
                    count += len((await self.receive()).get("body", b""))

    async def _drain_while(self, sending: object) -> None:
        drain = asyncio.ensure_future(self._drain())
        try:
            await sending  # type: ignore[misc]
        finally:
            drain.cancel()
            with suppress(asyncio.CancelledError):
                await drain

    async def _drain(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _may_outlast(scope: Scope) -> bool:
    """Whether the connection cannot be used again unless the application reads the body."""
    headers = dict(scope.get("headers", ()))
    size_bytes = headers.get(b"content-length", b"0")
    is_long = b"transfer-encoding" in headers or not size_bytes.isdigit() or int(size_bytes[:20]) > LINGER_BYTES_MAX
    return is_long and scope.get("http_version") == "1.1"
