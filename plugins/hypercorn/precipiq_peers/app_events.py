"""The events of one request on their way from its connection to the application (ASGI): bounded, and in order."""

from __future__ import annotations

import asyncio
from typing import Any

from precipiq_peers.allowance import Allowance

TINY_PIECE_BYTES = 64
"""A piece of a body with less than this in it is counted."""


class AppEvents:
    """A bounded queue from one connection to one application. A disconnect never waits for room and is the last."""

    __slots__ = ("_closed", "_events", "_ready", "_room", "_size_max", "_tiny", "_tiny_per_second_max")

    def __init__(self, size_max: int, tiny_per_second_max: int) -> None:
        self._size_max = size_max
        self._tiny_per_second_max = tiny_per_second_max
        self._tiny: Allowance | None = None
        self._events: list[Any] = []  # short, and mostly empty: ten times smaller than a deque
        self._ready = asyncio.Event()
        self._room: asyncio.Event | None = None
        self._closed = False

    async def put(self, event: Any) -> None:
        """Add an event, waiting for room; dropped after a disconnect and when the application has ended.

        A tiny piece of a body also waits for its turn, so that the connection is read no faster.
        """
        if event["type"] == "http.request" and event["more_body"] and len(event["body"]) < TINY_PIECE_BYTES:
            await self._slow_down()
        is_last = event["type"].endswith(".disconnect")
        while not is_last and not self._closed and len(self._events) >= self._size_max:
            self._room = self._room or asyncio.Event()
            await self._room.wait()
        if not self._closed:
            self._events.append(event)
            self._ready.set()
        if is_last:
            self._closed = True
            self._make_room()

    async def get(self) -> Any:
        """The next event, waiting for one."""
        while not self._events:
            self._ready.clear()
            await self._ready.wait()
        event = self._events.pop(0)
        self._make_room()
        return event

    def close(self) -> None:
        """Drop the events: the application has ended and reads no more."""
        self._closed = True
        self._events.clear()
        self._make_room()

    async def _slow_down(self) -> None:
        if self._tiny is None:
            rate = self._tiny_per_second_max
            self._tiny = Allowance(rate, rate, asyncio.get_running_loop().time)
        if wait_s := self._tiny.spend(1):
            await asyncio.sleep(wait_s)

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
