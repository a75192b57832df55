"""How many frames a WebSocket's client sends."""

from __future__ import annotations

import asyncio


class FrameRate:
    """Even small frames are expensive to parse: a flood of them on one connection would delay all others."""

    __slots__ = ("_count", "_per_second_max", "_second")

    def __init__(self, per_second_max: int) -> None:
        self._per_second_max = per_second_max
        self._count = self._second = 0

    def admits(self) -> bool:
        """Count one frame, and return whether it is within the rate."""
        second = int(asyncio.get_running_loop().time())
        self._count = self._count + 1 if second == self._second else 1
        self._second = second
        return self._count <= self._per_second_max
