"""How long a connection has been without a request: one timer for all its requests, not a task for each."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypercorn.typing import Event


class IdleTime:
    """Idle at first. ``terminated``: set when idle connections shall end at once."""

    def __init__(self, limit_s: float, terminated: Event) -> None:
        self._limit_s = limit_s
        self._terminated = terminated
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = self._loop.time()

    @property
    def is_idle(self) -> bool:
        """Whether no request runs."""
        return self._since_s is not None

    def note(self, *, is_idle: bool) -> None:
        """A request begins, or the last one has ended."""
        self._since_s = self._loop.time() if is_idle else None

    async def wait(self) -> None:
        """Until the connection was idle too long, or ``terminated``."""
        while not self._terminated.is_set() and (left_s := self._left_s()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._terminated.wait()

    def _left_s(self) -> float:
        return self._limit_s if self._since_s is None else self._since_s + self._limit_s - self._loop.time()
