"""Answers that last: what streams and downloads share, and the sending of streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.types import Receive, Send

from precipiq_contracts.errors import PrecipiqError
from precipiq_core.http.endpoint import StreamReply

_STREAM_END_TIMEOUT_S = 1.0


class LateFailure(Exception):
    """An answer failed after its status was sent; the connection is broken off so that nobody takes it for whole."""


@asynccontextmanager
async def while_client_stays(receive: Receive) -> AsyncIterator[asyncio.Timeout]:
    """Cut the block off when the client leaves; then ``expired()`` of what this gives is true, and nothing is raised.

    The block runs in the caller's task, so that whatever it holds is let go.
    """
    left = asyncio.timeout(None)
    try:
        async with left:
            watching = asyncio.create_task(_wait_for_disconnect(receive, lambda: left.reschedule(0)))
            try:
                yield left
            finally:
                watching.cancel()
    except TimeoutError:
        if not left.expired():
            raise


async def send_stream(reply: StreamReply, headers: Sequence[tuple[bytes, bytes]], receive: Receive, send: Send) -> None:
    """Run the reply until it ends or the client leaves. Raises ``LateFailure`` for an error after it has begun."""
    started = False

    async def send_piece(piece: bytes) -> None:
        nonlocal started
        if not started:
            started = True
            await send({"type": "http.response.start", "status": 200, "headers": [*headers]})
        await send({"type": "http.response.body", "body": piece, "more_body": True})

    try:
        async with while_client_stays(receive) as left:
            await reply.run(send_piece)
            if not started:
                await send_piece(b"")
    except PrecipiqError as error:
        if started:
            raise LateFailure from error
        raise
    if not left.expired():
        # A client that does not read would hold this up as well; what follows is the connection's end either way.
        with suppress(TimeoutError):
            async with asyncio.timeout(_STREAM_END_TIMEOUT_S):
                await send({"type": "http.response.body", "body": b""})


async def _wait_for_disconnect(receive: Receive, on_disconnect: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    on_disconnect()
