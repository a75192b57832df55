"""Emptying SQLite's log after an erasure, so that the erased bytes are in no file. Erases nothing itself.

A reader that is in the middle of its work keeps the log from being emptied. Then it is tried again until it has left,
less and less often: each attempt holds the writer for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from precipiq_contracts.errors import PrecipiqError

log = structlog.get_logger("precipiq.ledger.sqlite")

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0


class LogEmptier:
    """``checkpoint``: moves the log into the file and empties it; False when readers were in the way."""

    def __init__(self, checkpoint: Callable[[], Awaitable[bool]]) -> None:
        self._checkpoint = checkpoint
        self._wanted = asyncio.Event()

    @asynccontextmanager
    async def trying_again(self) -> AsyncIterator[None]:
        """For the life of the store. Closing the database empties the log too."""
        task = asyncio.create_task(self._try_again())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def empty(self, seq: int) -> None:
        """Empty the log of what entry ``seq`` held: now, or else as soon as nobody reads it any more."""
        if not await self._is_emptied():
            log.warning("an erased payload stays in the database's log until its readers have left", seq=seq)
            self._wanted.set()

    async def _is_emptied(self) -> bool:
        try:
            return await self._checkpoint()
        except PrecipiqError:
            return False

    async def _try_again(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            while not await self._is_emptied():
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s)
            log.info("the database's log is empty of erased payloads")
