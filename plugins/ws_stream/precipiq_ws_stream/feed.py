"""The live end of one chain in one process: new entries are read once, encoded once, and kept for a while.

The ledger is the log; a feed caches its newest part. A subscriber further back reads from the ledger.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence

import structlog

from precipiq_chain.chain_format import statement_timestamp
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import ChainBreak, Ledger
from precipiq_ws_stream.errors import CannotResume
from precipiq_ws_stream.frames import Batch, Encoder, batches
from precipiq_ws_stream.pages import PageSize
from precipiq_ws_stream.position import START, Position, position_of, read_after

log = structlog.get_logger("precipiq.ws_stream")

_RETRY_PAUSES_S = (0.05, 0.1, 0.2, 0.5)
_REDACTION = "redaction"
_PAGE_BYTES = 1024 * 1024

SEND_BYTES = 64 * 1024
"""The bytes of one send, unless a single frame is larger."""


class FellBehind(Exception):
    """The feed no longer holds the subscriber's next entries: the ledger has them."""


class Feed:
    """Follows one chain from :meth:`open` to :meth:`close`.

    ``on_entries`` gets the newest timestamp read; ``on_erased`` is called when a payload of the chain was erased;
    ``on_broken`` when the chain contradicts itself, which ends the feed. ``broken``: the contradiction.
    """

    def __init__(
        self,
        chain: Chain,
        ledger: Ledger,
        encoder: Encoder,
        *,
        page_entries_max: int,
        recent_bytes_max: Callable[[], int],
        on_entries: Callable[[str], None],
        on_erased: Callable[[Chain], None],
        on_broken: Callable[[Feed], None],
    ) -> None:
        self.chain = chain
        self.position = START
        self.bytes_total = 0
        self.users = 0
        self.broken: CannotResume | None = None
        self.idle_since_s: float | None = None
        self._ledger = ledger
        self._encoder = encoder
        self._page_size = PageSize(page_entries_max, _PAGE_BYTES)
        self._recent_bytes_max = recent_bytes_max
        self._on_entries = on_entries
        self._on_erased = on_erased
        self._on_broken = on_broken
        self._recent: list[Batch] = []
        self._recent_bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self.known_break: ChainBreak | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Begin to follow, or wait until another caller has begun. Raises the ledger's errors at the start."""
        if self._task is None:
            # A bare task: a streamed chain is no part of a deployment's readiness, and `_follow` goes on
            # after every fault.
            self._task = asyncio.create_task(self._follow())
        await asyncio.shield(self._opened)

    @property
    def has_failed(self) -> bool:
        """Whether opening the feed failed."""
        return self._opened.done() and self._opened.exception() is not None

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            (ended,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(ended, Exception):
                log.error("the stream cannot read the ledger", error=type(ended).__name__, exc_info=ended)

    def after(self, position: Position) -> list[Batch]:
        """Batches that follow that position, of ``SEND_BYTES`` together; none without new entries.

        Raises ``FellBehind``.
        """
        seq = position.seq
        if seq >= self.position.seq:
            return []
        recent = self._recent
        if not recent or seq < recent[0].start.seq:
            raise FellBehind
        index = bisect_right(recent, seq, key=lambda batch: batch.end.seq)
        if recent[index].hash_at(seq) != position.hash:
            raise FellBehind  # the chain has changed: the ledger decides
        found = [recent[index].after(seq)]
        size = found[0].size
        for batch in recent[index + 1 :]:
            size += batch.size
            if size > SEND_BYTES:
                break
            found.append(batch)
        return found

    def note_break(self, known: ChainBreak | None) -> None:
        """Note the fault that verification found in the chain, or that there is none."""
        if known != self.known_break:
            self.known_break = known
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for new entries, or news of a fault."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async with self._ledger.watch(self.chain) as wake_ups:
                    if not self._opened.done():
                        self.position = position_of(await self._ledger.head(self.chain))
                        self._opened.set_result(None)
                    while True:
                        await self._read_on()
                        if failures:
                            log.info("the stream goes on", **self._names())
                        failures = 0
                        await anext(wake_ups)
            except Unavailable as error:
                if not self._opened.done():
                    self._opened.set_exception(error)
                    return
                if not failures:
                    log.warning("the stream waits for the ledger", reason=error.message, **self._names())
            except StopAsyncIteration:
                pass
            except CannotResume as error:
                self.broken = error
                self._on_broken(self)
                return
            except Exception as error:
                if not failures:
                    log.exception("the stream cannot read the ledger", error=type(error).__name__, **self._names())
                if not self._opened.done():
                    self._opened.set_exception(error)
                    return
            await asyncio.sleep(_RETRY_PAUSES_S[min(failures, len(_RETRY_PAUSES_S) - 1)])
            failures += 1

    async def _read_on(self) -> None:
        """Publish new entries until the chain's end."""
        while True:
            before = self.position
            limit = self._page_size.entries
            _, entries = await read_after(self._ledger, self.chain, before, limit)
            if not entries:
                return
            self._page_size.learn(entries)
            frames = await self._encoder.frames(self.chain, entries)
            end = Position(entries[-1].seq, entries[-1].hash)
            self._publish(batches(before, frames, end, SEND_BYTES))
            self._on_entries(statement_timestamp(entries[-1].statement))
            await asyncio.sleep(0)  # the waiting subscribers write now
            if len(entries) < limit and not self._page_size.is_reached(entries):
                return

    def _publish(self, new: Sequence[Batch]) -> None:
        if any(frame.kind == _REDACTION for batch in new for frame in batch.frames):
            self._recent.clear()  # erased content must not be sent again
            self._recent_bytes = 0
            self._on_erased(self.chain)
        size = sum([batch.size for batch in new])
        self._recent += new
        self._recent_bytes += size
        bytes_max = self._recent_bytes_max()
        while self._recent_bytes > bytes_max and len(self._recent) > 1:
            self._recent_bytes -= self._recent.pop(0).size
        self.position = new[-1].end
        self.bytes_total += size
        self._wake()

    def _names(self) -> dict[str, str]:
        return {"org_id": self.chain.org_id, "environment": self.chain.environment}
