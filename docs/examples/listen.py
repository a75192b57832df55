"""The shortest client: print frames. It does not resume; ``follow.py`` does."""
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import os

from websockets.asyncio.client import connect


async def listen(url: str, key: str) -> None:
    """Print frames until the server closes."""
    async with connect(url, additional_headers={"X-Precipiq-Key": key}, max_size=None) as stream:
        async for frame in stream:
            print(frame)


asyncio.run(listen("ws://127.0.0.1:8000/ws/v1/stream?after_seq=0", os.environ["KEY"]))
