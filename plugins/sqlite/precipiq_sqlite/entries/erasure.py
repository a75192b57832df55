"""Emptying SQLite's log after an erasure, so that the erased bytes are in no file. Erases nothing itself.

A running read keeps SQLite from emptying the log. The emptier then tries again until that read has ended,
less and less often: each attempt holds the writer for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from precipiq_contracts.background import Background
from precipiq_contracts.errors import PrecipiqError, Unavailable

log = structlog.get_logger("precipiq.ledger.sqlite")

_PAUSE_S = 10.0
_STAYS = "an erased payload stays in the database's log until its readers have left"


class LogEmptier:
    """``checkpoint`` moves the log into the file and empties it; it gives False when a reader prevented that."""

    def __init__(self, checkpoint: Callable[[], Awaitable[bool]]) -> None:
        self._checkpoint = checkpoint
        self._wanted = asyncio.Event()
        self._is_wanted = False

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Retry while the context is entered: for the life of the store. Closing the database empties the log too."""
        return background(
            "sqlite.erasure",
            self._empty_if_wanted,
            every_s=_PAUSE_S,
            failing=_STAYS,
            wake=self._wanted,
            waits_first=True,
            tolerated=(Unavailable,),
        )

    async def empty(self, seq: int) -> None:
        """Empty the log after the erasure of entry ``seq``: now, or else once no read holds the log."""
        if not await self._is_emptied():
            log.warning(_STAYS, seq=seq)
            self._is_wanted = True
            self._wanted.set()

    async def _is_emptied(self) -> bool:
        try:
            return await self._checkpoint()
        except PrecipiqError:
            return False

    async def _empty_if_wanted(self) -> None:
        if not self._is_wanted:
            return
        self._is_wanted = False  # before the attempt: an erasure during it asks for another attempt
        if not await self._is_emptied():
            self._is_wanted = True
            raise Unavailable("its readers have not left")
        log.info("the database's log is empty of erased payloads")
