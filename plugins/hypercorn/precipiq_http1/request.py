"""One plain request and its answer, as its application sees them (ASGI): what Hypercorn's ``HTTPStream`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.utils import UnexpectedMessageError

from precipiq_http1.answers import Answer, Fields, begin_answer
from precipiq_http1.grammar import Head
from precipiq_peers.app_events import AppEvents


class Line(Protocol):
    """The connection on which a request came."""

    def own_fields(self) -> Fields:
        """The server's own fields of an answer."""

    async def write(self, data: bytes) -> None:
        """Send, waiting while the client does not take it."""

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Start a task that ends with the connection at the latest."""

    async def complete(self, *, is_reusable: bool) -> None:
        """The answer has ended. ``is_reusable``: as far as it is concerned, another request may follow."""


class PlainRequest:
    """The head of an answer goes out with the first of its body, but at the next turn of the loop at the latest."""

    __slots__ = (
        "_answer",
        "_body",
        "_events",
        "_head",
        "_head_bytes",
        "_held",
        "_is_closed",
        "_line",
        "_new",
        "_state",
    )

    def __init__(self, line: Line, head: Head, head_bytes: bytes, new_events: Callable[[], AppEvents]) -> None:
        self._line = line
        self._head = head
        self._head_bytes = head_bytes
        self._new = new_events
        self._body: bytes | None = None
        self._events: AppEvents | None = None
        self._state = ASGIHTTPState.REQUEST
        self._answer: Answer | None = None
        self._held = b""
        self._is_closed = False

    def give_body(self, body: bytes) -> None:
        """The whole body, before the application starts."""
        self._body = body

    async def feed(self, piece: bytes, *, is_last: bool) -> None:
        """A part of the body, waiting while the application does not read it."""
        if not self._is_closed:
            await self._queue().put({"type": "http.request", "body": piece, "more_body": not is_last})

    async def close(self) -> None:
        """Nothing more comes from the client."""
        if not self._is_closed:
            self._is_closed = True
            if self._events is not None:
                await self._events.put({"type": "http.disconnect"})

    async def receive(self) -> Any:
        """ASGI's."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self._events is None and self._is_closed:
            await self._queue().put({"type": "http.disconnect"})
        return await self._queue().get()

    async def send(self, message: Any) -> None:
        """ASGI's; None: the application has ended."""
        if message is None:
            await self._end()
            return
        kind = message["type"]
        if kind == "http.response.start" and self._state is ASGIHTTPState.REQUEST:
            self._start(int(message["status"]), message.get("headers", []))
        elif kind == "http.response.body" and self._state is ASGIHTTPState.RESPONSE:
            await self._send_body(bytes(message.get("body", b"")), is_last=not message.get("more_body", False))
        else:
            raise UnexpectedMessageError(self._state, kind)

    async def _end(self) -> None:
        """An answer that was not begun is an error; one that was not completed ends with the connection."""
        if self._events is not None:
            self._events.close()
        if self._is_closed:
            return
        if self._state is ASGIHTTPState.REQUEST:
            self._start(500, [(b"content-length", b"0"), (b"connection", b"close")])
        await self._flush()
        await self._line.complete(is_reusable=False)

    def _queue(self) -> AppEvents:
        if self._events is None:
            self._events = self._new()
        return self._events

    def _start(self, status: int, headers: Fields) -> None:
        self._answer = begin_answer(self._head.method, self._head_bytes, status, headers, self._line.own_fields())
        self._state = ASGIHTTPState.RESPONSE
        self._held = self._answer.start
        asyncio.get_running_loop().call_soon(self._flush_held)

    async def _send_body(self, data: bytes, *, is_last: bool) -> None:
        answer = self._answer
        assert answer is not None
        pieces = [self._held]
        try:
            if data and not answer.is_bodiless:
                pieces.append(answer.data(data))
            if is_last:
                pieces.append(answer.end())
                self._state = ASGIHTTPState.CLOSED
        finally:
            self._held = b""
            if joined := b"".join(pieces):
                await self._line.write(joined)
        if is_last:
            await self._line.complete(is_reusable=answer.is_reusable)

    def _flush_held(self) -> None:
        if self._held:
            self._line.spawn(self._flush)

    async def _flush(self) -> None:
        held, self._held = self._held, b""
        if held:
            await self._line.write(held)
