"""The limit for fan-out: ``for ws in sockets: await ws.send_bytes(frame)`` under the same Hypercorn and settings.

``BENCH_FRAMES`` frames of ``BENCH_FRAME_BYTES`` bytes go out each time a line comes on standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from bare import serve
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

FRAME = b"x" * int(os.environ["BENCH_FRAME_BYTES"])
FRAMES = int(os.environ["BENCH_FRAMES"])

sockets: set[WebSocket] = set()


async def endpoint(ws: WebSocket) -> None:
    await ws.accept()
    sockets.add(ws)
    with suppress(WebSocketDisconnect):
        while True:
            await ws.receive_text()
    sockets.discard(ws)


@asynccontextmanager
async def sending() -> AsyncIterator[None]:
    asked: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: (os.read(sys.stdin.fileno(), 1), asked.put_nowait(None)))

    async def send() -> None:
        while True:
            await asked.get()
            for _ in range(FRAMES):
                for ws in list(sockets):
                    await ws.send_bytes(FRAME)

    task = asyncio.create_task(send())
    yield
    task.cancel()


serve(Starlette(routes=[WebSocketRoute("/", endpoint)]), sending())
