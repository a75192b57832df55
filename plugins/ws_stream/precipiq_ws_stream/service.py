"""The streams of this process: admission, shared feeds and evictions. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from precipiq_contracts.auth import AddressLimiter, Principal
from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain, EntryKind
from precipiq_contracts.clock import Clock, parse_timestamp
from precipiq_contracts.ledger import ChainAudit, Ledger
from precipiq_contracts.plans import Plans
from precipiq_ws_stream.access import KeyAccess, Keys, Recheck
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.endings import DRAINING, LOST, Ending, cannot_resume
from precipiq_ws_stream.feed import Feed
from precipiq_ws_stream.feeds import Feeds
from precipiq_ws_stream.frames import Encoder, Wanted
from precipiq_ws_stream.metrics import StreamMetrics
from precipiq_ws_stream.places import Places
from precipiq_ws_stream.position import Position, position_of, read_after
from precipiq_ws_stream.replays import Replays
from precipiq_ws_stream.subscription import Pace, Subscription
from precipiq_ws_stream.transport import Transport

log = structlog.get_logger("precipiq.ws_stream")

_SWEEP_INTERVAL_S = 0.1
_UPKEEP_INTERVAL_S = 1.0
_EVICTIONS_PER_SWEEP_MIN = 20  # a few at a time: many stuck clients must not delay the others


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. ``after``: where it resumes; None: from now on. ``address``: for limits and the log."""

    principal: Principal
    credential_id: bytes
    recheck: Recheck
    address: str | None
    wanted: Wanted
    after: Position | None


@dataclass(frozen=True, slots=True)
class Opening:
    """A stream that may begin and holds its place in the limits. ``head``: the chain's end at the request."""

    request: Request
    feed: Feed
    access: KeyAccess
    position: Position
    head: Position


class Streams:
    """All streams of this process. The ``Admission`` of its endpoints."""

    def __init__(
        self,
        ledger: Ledger,
        address_limiter: AddressLimiter,
        clock: Clock,
        config: WsStreamConfig,
        metrics: StreamMetrics,
        plans: Plans | None = None,
        audit: ChainAudit | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._metrics = metrics
        self._pace = Pace(
            config.queue_frames_max,
            config.queue_bytes_max,
            config.overflow_grace_s,
            config.stall_timeout_s,
            config.page_entries_max,
            config.page_bytes,
            config.heartbeat_interval_s,
        )
        self._encoder = Encoder({})
        self._replays = Replays(
            ledger,
            self._encoder,
            clock,
            at_once_max=config.replays_at_once_max,
            kept_bytes_max=config.replay_cache_bytes_max,
        )
        self._places = Places(address_limiter, config, plans)
        self._audit = audit
        self._keys = Keys(clock, self._on_key_ending)
        self._feeds = Feeds(
            ledger,
            self._encoder,
            self._replays,
            clock,
            config,
            on_entries=self._note_news,
            on_broken=self._on_broken,
        )
        self._open: set[Subscription] = set()
        self._upkeep_s = 0.0

    async def admit(self, address: str | None) -> None:
        """Count a handshake. Raises ``RateLimited``."""
        await self._places.count_handshake(address)

    def note_refusal(self, code: str, address: str | None) -> None:
        """Count a handshake that was refused with that error code."""
        self._metrics.handshakes.labels(code).inc()
        log.info("stream refused", code=code, address=address)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Opening]:
        """Take a place for a stream while the context is entered.

        Raises ``RateLimited`` when no place is free, ``CannotResume`` and ``Unavailable``.
        """
        chain = request.principal.chain
        with (
            self._places.take(request.address, chain.org_id),
            self._keys.use(request.principal, request.credential_id, request.recheck) as access,
        ):
            async with self._feeds.use(chain) as feed:
                position, head = await self._find(chain, request.after)
                yield Opening(request, feed, access, position, head)

    async def serve(self, opening: Opening, transport: Transport, on_open: Callable[[Subscription], None]) -> None:
        """Run the stream of an opening on that connection until the stream ends, and tell the client the reason."""
        subscription = self._subscription(opening, transport)
        connections = self._metrics.connections.labels(transport.name)
        connections.inc()
        self._open.add(subscription)
        self._note_opened(opening, subscription)
        start_s = self._clock.monotonic_s()
        ending = LOST
        try:
            on_open(subscription)
            ending = await subscription.run()
        finally:
            self._open.discard(subscription)
            connections.dec()
            self._note_closed(subscription, ending, self._clock.monotonic_s() - start_s)

    @asynccontextmanager
    async def run(self, kinds: Mapping[str, EntryKind], background: Background) -> AsyncIterator[None]:
        """Serve while the context is entered. ``kinds``: the shapes of entries."""
        self._encoder.kinds = kinds
        sweeping = background(
            "ws_stream.sweep",
            self._sweep,
            every_s=_SWEEP_INTERVAL_S,
            failing="upkeep of streams failed",
            waits_first=True,
            final=self._feeds.close,
        )
        checking = background(
            "ws_stream.keys",
            self._keys.check,
            every_s=self._config.key_check_interval_s,
            failing="keys of streams cannot be checked",
            waits_first=True,
        )
        async with sweeping, checking:
            try:
                yield
            finally:
                for subscription in list(self._open):
                    subscription.end(DRAINING)

    async def _find(self, chain: Chain, after: Position | None) -> tuple[Position, Position]:
        """The position where the stream begins, and the chain's head."""
        head = position_of(await self._ledger.head(chain))
        if after is None:
            return head, head
        position, _ = await read_after(self._ledger, chain, after, 1)
        return position, head

    def _subscription(self, opening: Opening, transport: Transport) -> Subscription:
        return Subscription(
            opening.feed,
            transport,
            opening.access,
            self._replays,
            self._pace,
            self._clock,
            position=opening.position,
            head=opening.head,
            resumed=opening.request.after is not None,
            wanted=opening.request.wanted,
            names=_names(opening, transport),
        )

    def _note_opened(self, opening: Opening, subscription: Subscription) -> None:
        after = opening.request.after
        self._metrics.handshakes.labels("accepted").inc()
        if after is not None:
            self._metrics.resumes.inc()
        log.info("stream opened", after_seq=None if after is None else after.seq, **subscription.names)

    def _note_closed(self, subscription: Subscription, ending: Ending, duration_s: float) -> None:
        self._count(subscription)
        self._metrics.closes.labels(str(ending.code) if ending.code else "client").inc()
        log.info(
            "stream closed",
            code=ending.code,
            reason=ending.reason,
            seq=subscription.position.seq,
            frames=subscription.sent.frames,
            bytes=subscription.sent.bytes,
            duration_s=round(duration_s, 3),
            **subscription.names,
        )

    def _on_broken(self, feed: Feed) -> None:
        assert feed.broken is not None
        for subscription in list(self._open):
            if subscription.feed is feed:
                subscription.end(cannot_resume(feed.broken.message))

    def _on_key_ending(self, access: KeyAccess) -> None:
        assert access.ending is not None
        for subscription in list(self._open):
            if subscription.access is access:
                subscription.end(access.ending)

    def _note_news(self, timestamp: str) -> None:
        self._replays.note_news()
        self._metrics.delay.observe(max(0, self._clock.now_us() - parse_timestamp(timestamp)) / 1_000_000)

    async def _sweep(self) -> None:
        now_s = self._clock.monotonic_s()
        self._evict_stuck(now_s)
        if now_s - self._upkeep_s >= _UPKEEP_INTERVAL_S:
            self._upkeep_s = now_s
            self._metrics.lag.set(max((item.lag_frames for item in self._open), default=0))
            for subscription in self._open:
                self._count(subscription)
            if self._audit is not None:
                self._feeds.note_breaks(self._audit)
            await self._feeds.close_idle()

    def _evict_stuck(self, now_s: float) -> None:
        evictions_left = max(_EVICTIONS_PER_SWEEP_MIN, len(self._open) // 50)
        for subscription in list(self._open):
            reason = subscription.eviction(now_s)
            if reason is not None:
                self._evict(subscription, reason)
                evictions_left -= 1
                if not evictions_left:
                    return

    def _evict(self, subscription: Subscription, reason: str) -> None:
        self._metrics.evictions.labels(reason).inc()
        log.warning(
            "stream evicted: the client does not read",
            reason=reason,
            seq=subscription.position.seq,
            lag_entries=subscription.lag_frames,
            **subscription.names,
        )
        subscription.evict()

    def _count(self, subscription: Subscription) -> None:
        frames, size = subscription.sent.take()
        if frames:
            self._metrics.frames.inc(frames)
            self._metrics.bytes.inc(size)


def _names(opening: Opening, transport: Transport) -> dict[str, str | None]:
    return {
        "transport": transport.name,
        "org_id": opening.feed.chain.org_id,
        "environment": opening.feed.chain.environment,
        "key_id": opening.request.principal.key_id,
        "address": opening.request.address,
    }
