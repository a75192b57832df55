"""Answers that send themselves: their declaration by an endpoint, and their shared parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Protocol

from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from precipiq_contracts.errors import PrecipiqError


class OwnAnswer(Protocol):
    """An answer that is an ASGI application: a file, a stream, a page. An endpoint names its class as ``output``.

    ``media_type``: of the body. ``model``: its structure, for OpenAPI. ``has_head``: whether the path answers HEAD too;
    False for a stream, since HEAD would start it. ``has_ranges``: whether it honours ``Range``, ``If-Range`` and
    ``If-None-Match``. ``key_in_query``: ``?api_key=`` counts too, for clients that cannot set headers.

    An exception before the status is sent becomes the documented error; a later one closes the connection. The answer
    must bound its own time: the timeout of handlers ends where the answer begins.
    """

    media_type: ClassVar[str] = "application/json"
    model: ClassVar[type[BaseModel] | None] = None
    has_head: ClassVar[bool] = True
    has_ranges: ClassVar[bool] = False
    key_in_query: ClassVar[bool] = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; core adds the fields of the rate limit."""
        ...


class LateFailure(Exception):
    """An answer failed after its status was sent; the connection is closed so that no client takes it for complete."""


async def send_own(
    answer: ASGIApp, headers: Sequence[tuple[bytes, bytes]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Let the answer send itself, with these headers beside its own. Raises ``LateFailure`` once it has begun."""
    started = False

    async def send_with_headers(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            started = True
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    try:
        await answer(scope, receive, send_with_headers)
    except (PrecipiqError, TimeoutError) as error:
        if started:
            raise LateFailure from error
        raise


@asynccontextmanager
async def while_client_stays(receive: Receive, *, after_s: float = 0.0) -> AsyncIterator[asyncio.Timeout]:
    """Cancel the block when the client leaves; then ``expired()`` of the yielded timeout is true, nothing is raised.

    The block runs in the caller's task, so that its resources are released. A block that ends within ``after_s`` costs
    no task, and is not cancelled.
    """
    left = asyncio.timeout(None)
    watching: set[asyncio.Task[None]] = set()

    def watch() -> None:
        watching.add(asyncio.ensure_future(_wait_for_disconnect(receive, lambda: left.reschedule(0))))

    try:
        async with left:
            timer = asyncio.get_running_loop().call_later(after_s, watch)
            try:
                yield left
            finally:
                timer.cancel()
                for task in watching:
                    task.cancel()
    except TimeoutError:
        if not left.expired():
            raise


async def _wait_for_disconnect(receive: Receive, on_disconnect: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    on_disconnect()
