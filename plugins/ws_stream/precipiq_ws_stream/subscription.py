"""One subscriber: a cursor in a chain and a connection. Replays from the ledger, then goes on from the feed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_contracts.errors import Unavailable
from precipiq_contracts.ledger import ChainBreak
from precipiq_ws_stream.access import KeyAccess
from precipiq_ws_stream.endings import INTERNAL, Ending, cannot_resume, too_slow
from precipiq_ws_stream.errors import CannotResume
from precipiq_ws_stream.feed import Feed, FellBehind
from precipiq_ws_stream.frames import EVERYTHING, Batch, Frame, Wanted, control_frame
from precipiq_ws_stream.pages import PageSize
from precipiq_ws_stream.position import Position
from precipiq_ws_stream.replays import Replays
from precipiq_ws_stream.transport import WEBSOCKET, Transport

log = structlog.get_logger("precipiq.ws_stream")

_RETRY_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Pace:
    """Limits of a client's lag, and of reading replays. See ``WsStreamConfig``."""

    queue_frames_max: int
    queue_bytes_max: int
    overflow_grace_s: float
    stall_timeout_s: float
    page_entries_max: int
    page_bytes: int
    heartbeat_interval_s: float


@dataclass(slots=True)
class Sent:
    """Counts of the frames and bytes that one stream sent."""

    frames: int = 0
    bytes: int = 0
    frames_told: int = 0
    bytes_told: int = 0

    def take(self) -> tuple[int, int]:
        """Frames and bytes since the last call."""
        taken = self.frames - self.frames_told, self.bytes - self.bytes_told
        self.frames_told, self.bytes_told = self.frames, self.bytes
        return taken


class Subscription:
    """One open stream. ``position``: everything up to it was written to the connection. ``names``: for the log."""

    def __init__(
        self,
        feed: Feed,
        transport: Transport,
        access: KeyAccess,
        replays: Replays,
        pace: Pace,
        clock: Clock,
        *,
        position: Position,
        head: Position,
        resumed: bool,
        wanted: Wanted,
        names: Mapping[str, str | None],
    ) -> None:
        self.names = names
        self.feed = feed
        self.transport = transport
        self.access = access
        self.position = position
        self.sent = Sent()
        self._replays = replays
        self._pace = pace
        self._clock = clock
        self._head = head
        self._resumed_from = position.seq if resumed else None
        self._wanted = wanted
        self._caught_up = not resumed
        self._told_s = clock.monotonic_s()  # when the client was last sent something
        self._progress_s: float | None = None  # while something is being sent: when the client last took some of it
        self._told_break: ChainBreak | None = None
        self._unsent: int | None = None
        self._bytes_before = feed.bytes_total
        self._page_size = PageSize(pace.page_entries_max, pace.page_bytes)
        self._writer: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> Ending:
        """Stream until the end, tell the client the reason, and give it."""
        if self.feed.broken is not None:
            self.end(cannot_resume(self.feed.broken.message))
        if self.access.ending is not None:
            self.end(self.access.ending)
        self._writer = asyncio.create_task(self._write())
        tasks = [self._writer, asyncio.create_task(self._watch_client())]
        try:
            ending = await self._ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if ending.code:
            frame = self._control("connection.closing", {"code": ending.code, "reason": ending.reason})
            await self.transport.close(ending, frame)
        return ending

    def end(self, ending: Ending) -> None:
        """End the stream for that reason, unless it is ending already."""
        if not self._ended.done():
            self._ended.set_result(ending)
            if self._writer is not None:
                self._writer.cancel()  # at once: the client gets no frame after the seq in the ending

    @property
    def lag_frames(self) -> int:
        """Entries of the chain that the stream has not sent yet."""
        return max(0, self.feed.position.seq - self.position.seq)

    def eviction(self, now_s: float) -> str | None:
        """The reason to evict the client, if any: it takes nothing, and too much waits for it, or too long."""
        if self._progress_s is None or self._ended.done():
            return None
        unsent = self.transport.unsent()
        if unsent is not None and (self._unsent is None or unsent < self._unsent):
            if self._unsent is not None:
                self._progress_s = now_s
            self._unsent = unsent
        stuck_s = now_s - self._progress_s
        if stuck_s >= self._pace.stall_timeout_s:
            return "stalled"
        pace = self._pace
        lag_bytes = self.feed.bytes_total - self._bytes_before
        is_over = self.lag_frames > pace.queue_frames_max or lag_bytes > pace.queue_bytes_max
        if unsent is None:
            is_over = False  # the client may be reading slowly
        return "overflow" if is_over and stuck_s >= pace.overflow_grace_s else None

    def evict(self) -> None:
        """Evict the client with the seq from which it can go on."""
        self.end(too_slow(self.position.seq))

    async def _write(self) -> None:
        try:
            await self._send_control("connection.ready", self._ready())
            while True:
                if not self._caught_up and self.position.seq >= self._head.seq:
                    self._caught_up = True
                    await self._send_control("caught_up", {"seq": self.position.seq})
                await self._send(await self._next())
        except CannotResume as error:
            self.end(cannot_resume(error.message))
        except Exception as error:
            log.exception("stream failed", error=type(error).__name__)
            self.end(INTERNAL)

    async def _watch_client(self) -> None:
        try:
            self.end(await self.transport.wait_until_left())
        except Exception as error:
            log.exception("stream failed", error=type(error).__name__)
            self.end(INTERNAL)

    async def _next(self) -> Sequence[Batch]:
        while True:
            await self._tell_break_if_new()
            try:
                if self.position.seq < self._head.seq and not self._is_feed_current:
                    raise FellBehind
                batches = self.feed.after(self.position)
            except FellBehind:
                batch = await self._page()
                if batch is not None:
                    return [batch]
                continue
            if batches:
                return [batch.only(self._wanted) for batch in batches]
            await self._wait()

    async def _tell_break_if_new(self) -> None:
        known, told = self.feed.known_break, self._told_break
        if known == told:
            return
        self._told_break = known
        if known is None:
            await self._send_control("integrity.restored", {"seq": told.seq if told else None})
        else:
            await self._send_control(
                "integrity.broken", {"seq": known.seq, "id": known.id, "code": known.code, "reason": known.reason}
            )

    async def _wait(self) -> None:
        if not self._tells_position:
            await self.feed.wait()
            return
        left_s = self._told_s + self._pace.heartbeat_interval_s - self._clock.monotonic_s()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self.feed.wait()
        except TimeoutError:
            await self._tell_position()

    @property
    def _tells_position(self) -> bool:
        """Whether an idle stream sends its position: a WebSocket has pings, and without a filter its client knows."""
        return self.transport.name != WEBSOCKET or self._wanted != EVERYTHING

    async def _tell_position_if_due(self) -> None:
        if self._tells_position and self._clock.monotonic_s() - self._told_s >= self._pace.heartbeat_interval_s:
            await self._tell_position()

    async def _tell_position(self) -> None:
        with self._expect_progress():
            await self.transport.tell_position(self._control("position", {"seq": self.position.seq}))

    @property
    def _is_feed_current(self) -> bool:
        """Whether the feed's cache reflects every erasure from before this stream began."""
        return self.feed.position.seq >= self._head.seq

    async def _page(self) -> Batch | None:
        try:
            batch = await self._replays.page(
                self.feed.chain, self.position, self._wanted, self._page_size, is_shared=self._is_feed_current
            )
        except Unavailable:
            await self._tell_position_if_due()
            await asyncio.sleep(_RETRY_PAUSE_S)
            return None
        if batch is None:
            raise CannotResume(f"the chain has no entry {self.position.seq + 1} any more; reload")
        return batch

    async def _send(self, batches: Sequence[Batch]) -> None:
        count = sum([len(batch.frames) for batch in batches])
        if count and not self.access.is_fresh:
            await self.access.wait_until_fresh()
            return  # the wait may have been long: the next batches are looked up again
        if count and not self.transport.hands_over_at_once:
            await self._send_one_by_one(batches)
        # A call of `send` writes before its first wait, even if it is then cancelled: so the position moves first.
        self.position = batches[-1].end
        self._bytes_before = self.feed.bytes_total
        if count and self.transport.hands_over_at_once:
            self.sent.frames += count
            self.sent.bytes += sum([batch.size for batch in batches])
            with self._expect_progress():
                await self.transport.send(batches)
        elif not count:
            await self._tell_position_if_due()

    async def _send_one_by_one(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for frame in batch.frames:
                self.position = Position(frame.seq, frame.hash)
                self.sent.frames += 1
                self.sent.bytes += len(frame.text)
                with self._expect_progress():
                    await self.transport.send_frame(frame)

    async def _send_control(self, kind: str, data: dict[str, object]) -> None:
        with self._expect_progress():
            await self.transport.send_frame(self._control(kind, data))

    def _control(self, kind: str, data: dict[str, object]) -> Frame:
        return control_frame(kind, self.position, format_timestamp(self._clock.now_us()), data)

    @contextmanager
    def _expect_progress(self) -> Iterator[None]:
        """Expect the client to take bytes while the context is entered."""
        self._progress_s, self._unsent = self._clock.monotonic_s(), None
        yield
        self._progress_s = None
        self._told_s = self._clock.monotonic_s()

    def _ready(self) -> dict[str, object]:
        wanted = self._wanted
        return {
            "head": {"seq": self._head.seq, "hash": self._head.hash},
            "resumed_from": self._resumed_from,
            "org_id": self.feed.chain.org_id,
            "environment": self.feed.chain.environment,
            "kinds": None if wanted.kinds is None else sorted(wanted.kinds),
            "agent_id": wanted.agent_id,
        }
