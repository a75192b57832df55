"""How many frames a WebSocket's client sends."""

from __future__ import annotations

import asyncio


class FrameRate:
    """Frames cost much to parse, however small they are: a flood of them on one connection would hold all others up."""

    __slots__ = ("_count", "_per_second_max", "_second")

    def __init__(self, per_second_max: int) -> None:
        self._per_second_max = per_second_max
        self._count = self._second = 0

    def admits(self) -> bool:
        """Count one, and say whether it is within the rate."""
        second = int(asyncio.get_running_loop().time())
        self._count = self._count + 1 if second == self._second else 1
        self._second = second
        return self._count <= self._per_second_max
