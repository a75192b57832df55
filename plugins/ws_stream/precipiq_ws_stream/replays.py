"""Pages of the ledger as batches, for subscribers behind the feed: few reads at a time, shared by position."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.ledger import Ledger
from precipiq_work.turns import Turns
from precipiq_ws_stream.frames import EVERYTHING, Batch, Encoder, Frame, Wanted
from precipiq_ws_stream.pages import PageSize
from precipiq_ws_stream.position import Position, read_after

_SLICE_ENTRIES = 16
_BUSY_S = 0.5
_FORMS = 3  # a batch holds its text and each form in which it was sent

_Key = tuple[Chain, Position]


class Replays:
    """Reads pages, few enough at a time for live streams and appends to keep their pace, and caches some.

    Chains take turns: many replays of one chain do not delay another.
    """

    def __init__(
        self, ledger: Ledger, encoder: Encoder, clock: Clock, *, at_once_max: int, kept_bytes_max: int
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._last_news_s = -_BUSY_S
        self._encoder = encoder
        self._turns = Turns(at_once_max)
        self._kept_bytes_max = kept_bytes_max
        self._kept: OrderedDict[_Key, Batch] = OrderedDict()
        self._kept_bytes = 0
        self._generation = 0
        self._reading: dict[_Key, asyncio.Task[Batch | None]] = {}

    async def page(
        self, chain: Chain, position: Position, wanted: Wanted, size: PageSize, *, is_shared: bool = True
    ) -> Batch | None:
        """The page after the position; None at the chain's end. Raises ``CannotResume`` and ``Unavailable``.

        ``is_shared``: whether a cached page may be used.
        """
        if wanted != EVERYTHING or not is_shared:
            async with self._turns.of(chain):
                return await self._read(chain, position, wanted, size)
        key = chain, position
        batch = self._kept.get(key)
        if batch is not None:
            self._kept.move_to_end(key)
            return batch
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read_for_all(key, position, size))
            reading.add_done_callback(_look_at)
        return await asyncio.shield(reading)

    def note_news(self) -> None:
        """Note an append: replays yield to it for a moment."""
        self._last_news_s = self._clock.monotonic_s()

    def forget(self, chain: Chain) -> None:
        """Drop the pages of that chain: a payload was erased, or the chain was rewritten."""
        self._generation += 1
        for key in [key for key in self._reading if key[0] == chain]:
            del self._reading[key]
        for key in [key for key in self._kept if key[0] == chain]:
            self._kept_bytes -= self._kept.pop(key).size * _FORMS

    async def _read_for_all(self, key: _Key, position: Position, size: PageSize) -> Batch | None:
        chain, generation = key[0], self._generation
        try:
            async with self._turns.of(chain):
                batch = await self._read(chain, position, EVERYTHING, size)
        finally:
            if self._reading.get(key) is asyncio.current_task():
                del self._reading[key]
        if batch is not None and generation == self._generation:
            self._keep(key, batch)
        return batch

    def _keep(self, key: _Key, batch: Batch) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._kept_bytes -= before.size * _FORMS
        self._kept[key] = batch
        self._kept_bytes += batch.size * _FORMS
        while self._kept_bytes > self._kept_bytes_max:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.size * _FORMS

    async def _read(self, chain: Chain, position: Position, wanted: Wanted, size: PageSize) -> Batch | None:
        limit = size.limit_after(position.seq)
        began_s = self._clock.monotonic_s()
        start, entries = await read_after(self._ledger, chain, position, limit)
        if not entries:
            return None
        size.learn(entries)
        entries = size.cut(entries)
        frames: list[Frame] = []
        for first in range(0, len(entries), _SLICE_ENTRIES):
            frames += await self._encoder.frames(chain, entries[first : first + _SLICE_ENTRIES], wanted)
            await asyncio.sleep(0)  # appends and live streams go first
        if began_s - self._last_news_s < _BUSY_S:
            took_s = self._clock.monotonic_s() - began_s
            await asyncio.sleep(min(took_s, _BUSY_S))  # replays leave the interpreter free half of the time
        return Batch(start, frames, Position(entries[-1].seq, entries[-1].hash))


def _look_at(reading: asyncio.Task[Batch | None]) -> None:
    """Retrieve the task's exception: its waiters have it, or are gone."""
    if not reading.cancelled():
        reading.exception()
