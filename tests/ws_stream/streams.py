"""Clients of the stream for tests: one connection, one that resumes by itself, and one over server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from precipiq_testkit.server import ServerProcess

Frame = dict[str, Any]

TIMEOUT_S = 30.0


def stream_url(server: ServerProcess, key: str | None = None, **query: object) -> str:
    """The stream's address with the key in its query, as a browser writes it."""
    parameters = {"api_key": key or server.key, **query}
    return f"ws{server.url.removeprefix('http')}/ws/v1/stream?{urlencode(parameters)}"


@asynccontextmanager
async def stream(server: ServerProcess, key: str | None = None, **query: object) -> AsyncIterator[Stream]:
    """An open stream. What is not part of the query is given to :func:`stream_url` by the caller."""
    async with connect(stream_url(server, key, **query), max_size=None, proxy=None) as connection:
        yield Stream(connection)


class Stream:
    """One open stream, frame by frame."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def next(self, timeout_s: float = TIMEOUT_S) -> Frame:
        """The next frame. Raises ``websockets.ConnectionClosed`` and ``TimeoutError``."""
        async with asyncio.timeout(timeout_s):
            frame: Frame = json.loads(await self.connection.recv())
            return frame

    async def ready(self) -> Frame:
        """The first frame."""
        frame = await self.next()
        assert frame["type"] == "connection.ready", frame
        return frame

    async def until(self, seq: int) -> list[Frame]:
        """Frames of entries up to that seq; frames about the stream are left out."""
        frames: list[Frame] = []
        while not frames or frames[-1]["seq"] < seq:
            frame = await self.next()
            if frame["id"] is not None:
                frames.append(frame)
        return frames

    async def closed(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Read until the server closes; its code and reason."""
        async with asyncio.timeout(timeout_s):
            with suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
            await self.connection.wait_closed()
        return self.connection.close_code or 1006, self.connection.close_reason or ""


@asynccontextmanager
async def events(server: ServerProcess, key: str | None = None, **options: Any) -> AsyncIterator[AsyncIterator[Frame]]:
    """Frames of server-sent events; each with its ``event_id``. ``options`` are those of a request."""
    headers = options.pop("headers", {})
    if "api_key" not in options.get("params", {}):
        headers["X-Precipiq-Key"] = key or server.key
    async with (
        httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client,
        client.stream("GET", "/api/v1/stream", **options) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream"
        yield _events(answer)


async def _events(answer: httpx2.Response) -> AsyncIterator[Frame]:
    event: Frame = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            event["event_id"] = value
        elif name == "data":
            event |= json.loads(value)
        elif not line and event:
            if "type" in event:
                yield event
            event = {}


async def logged(server: ServerProcess, event: str) -> dict[str, object]:
    """The first line with that event, waiting for it."""
    async with asyncio.timeout(60):
        while True:
            for line in server.log_lines():
                if line.get("event") == event:
                    return line
            await asyncio.sleep(0.05)


def assert_linked(frames: list[Frame], prev_hash: str | None = None) -> None:
    """Every frame follows the one before: no gap, no repeat, and the hashes are a chain."""
    for before, frame in pairwise(frames):
        assert frame["seq"] == before["seq"] + 1, (before["seq"], frame["seq"])
        assert frame["prev_hash"] == before["hash"]
    if frames and prev_hash is not None:
        assert frames[0]["prev_hash"] == prev_hash
