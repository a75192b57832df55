"""Server-sent events as an answer: without an end of its own, and cut off when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from precipiq_core.http.answers import OwnAnswer, while_client_stays

SendBytes: TypeAlias = Callable[[bytes], Awaitable[None]]

_HEADERS = ((b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no"))
"""The second header tells nginx not to buffer."""
_END_TIMEOUT_S = 1.0


class FrameOut(BaseModel):
    """One frame. ``data`` is the entry in its REST shape; ``prev_hash`` and ``hash`` let a client verify the chain."""

    type: str
    seq: int
    id: str | None
    timestamp: str
    prev_hash: str | None
    hash: str
    data: dict[str, object]


@dataclass(frozen=True)
class EventStream(OwnAnswer):
    """``run`` gets the function that sends a piece; the answer ends when it returns. A client that leaves cancels it.

    A client that takes no piece blocks ``run``, which must bound that wait.
    """

    media_type: ClassVar[str] = "text/event-stream"
    model: ClassVar[type[BaseModel]] = FrameOut
    has_head: ClassVar[bool] = False
    key_in_query: ClassVar[bool] = True  # a browser's EventSource cannot set headers

    run: Callable[[SendBytes], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_piece(piece: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        async with while_client_stays(receive) as left:
            await self.run(send_piece)
            if not started:
                await send_piece(b"")
        if not left.expired():
            # A client that does not read would block this send too; the connection ends either way.
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": b""})
