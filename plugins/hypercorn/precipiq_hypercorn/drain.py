"""The gate that every request passes: counts requests, and at the stop lets them finish, then cancels the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precipiq_contracts.errors import Unavailable
from precipiq_core.http.envelope import error_answer

log = structlog.get_logger("precipiq.serving")

SERVICE_RESTART = 1012  # RFC 6455 registry: the service restarts; reconnect

ON_DRAIN = "precipiq.on_drain"
"""Scope key of a function that takes a ``() -> None``, to be called when the drain begins, or at once if it has begun.

For requests that would not end by themselves: a WebSocket whose application closes it in its own way (without a
function it is closed with 1012), or an HTTP answer without end. The handler then has the drain's time, as any request.
"""

_RESPONSE_EXTENSION = "websocket.http.response"


class DrainGate:
    """Open until :meth:`drain` is called."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._draining = False
        self._requests: set[asyncio.Task[object]] = set()
        self._websockets: dict[asyncio.Task[object], Send] = {}
        self._callbacks: dict[asyncio.Task[object], list[Callable[[], None]]] = {}
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
        scope[ON_DRAIN] = partial(self._register, task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._draining:
                raise
            with suppress(Exception):  # when the answer had begun, the server refuses a second one
                await _refuse(send)
        finally:
            self._requests.discard(task)
            self._forget(task)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._draining:
            if _RESPONSE_EXTENSION in scope.get("extensions", {}):
                await _refuse(send, prefix="websocket.")
            else:
                await _close(send)
            return
        task = asyncio.current_task()
        assert task is not None
        self._websockets[task] = send
        scope[ON_DRAIN] = partial(self._register, task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._draining:
                raise
            with suppress(Exception):  # as above
                await _close(send)
        finally:
            self._websockets.pop(task, None)
            self._forget(task)

    def _register(self, task: asyncio.Task[object], callback: Callable[[], None]) -> None:
        if self._draining:
            callback()
        elif task in self._requests or task in self._websockets:
            self._callbacks.setdefault(task, []).append(callback)

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._callbacks.pop(task, None)
        self._note_empty()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, call the registered functions, close the other WebSockets, wait for running requests,
        cancel the rest at the deadline.
        """
        self._draining = True
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        told = self._tell_registered()
        silent = [send for task, send in self._websockets.items() if task not in told]
        closing = [asyncio.ensure_future(_close(send)) for send in silent]
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

    def _tell_registered(self) -> set[asyncio.Task[object]]:
        """Call the registered functions; the tasks whose functions all returned."""
        told = set()
        for task, callbacks in list(self._callbacks.items()):
            try:
                for callback in list(callbacks):
                    callback()
            except Exception:
                log.exception("a callback of the drain failed")
            else:
                told.add(task)
        self._callbacks.clear()
        return told

    def _note_empty(self) -> None:
        if self._draining and not self._requests and not self._websockets:
            self._empty.set()


async def _refuse(send: Send, *, prefix: str = "") -> None:
    answer = error_answer(Unavailable("the server is stopping; try again", retry_after_s=2))
    headers = [*answer.headers, (b"connection", b"close")]
    await send(_start(prefix, answer.status, headers))
    await send({"type": f"{prefix}http.response.body", "body": answer.body})


def _start(prefix: str, status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": f"{prefix}http.response.start", "status": status, "headers": headers}


async def _close(send: Send) -> None:
    await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "restarting"})
