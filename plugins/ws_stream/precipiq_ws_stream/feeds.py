"""The feeds of this process, one for each chain with streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.ledger import ChainAudit, Ledger
from precipiq_ws_stream.config import WsStreamConfig
from precipiq_ws_stream.feed import Feed
from precipiq_ws_stream.frames import Encoder
from precipiq_ws_stream.replays import Replays

log = structlog.get_logger("precipiq.ws_stream")

_IDLE_S = 30.0


class Feeds:
    """A feed is opened for its first user, and closed a while after its last user, which may come back soon.

    ``on_entries`` gets the newest timestamp that a feed read; ``on_broken`` a feed that has ended.
    """

    def __init__(
        self,
        ledger: Ledger,
        encoder: Encoder,
        replays: Replays,
        clock: Clock,
        config: WsStreamConfig,
        *,
        on_entries: Callable[[str], None],
        on_broken: Callable[[Feed], None],
    ) -> None:
        self._ledger = ledger
        self._encoder = encoder
        self._replays = replays
        self._clock = clock
        self._config = config
        self._on_entries = on_entries
        self._tell_broken = on_broken
        self._by_chain: dict[Chain, Feed] = {}

    @asynccontextmanager
    async def use(self, chain: Chain) -> AsyncIterator[Feed]:
        """Lend the open feed of that chain. Raises the ledger's errors."""
        feed = self._by_chain.get(chain)
        if feed is None or feed.has_failed:
            feed = self._by_chain[chain] = self._new(chain)
        feed.users += 1
        feed.idle_since_s = None
        try:
            await feed.open()
            yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                feed.idle_since_s = self._clock.monotonic_s()

    def note_breaks(self, audit: ChainAudit) -> None:
        """Tell the streams of each chain whether a fault in it is known."""
        for feed in self._by_chain.values():
            feed.note_break(audit.known_break(feed.chain))

    async def close_idle(self) -> None:
        """Close the feeds without users for a while."""
        before_s = self._clock.monotonic_s() - _IDLE_S
        for feed in list(self._by_chain.values()):
            if feed.idle_since_s is not None and feed.idle_since_s < before_s:
                self._forget(feed)
                await feed.close()

    async def close(self) -> None:
        """Close all."""
        for feed in list(self._by_chain.values()):
            self._forget(feed)
            await feed.close()

    def _new(self, chain: Chain) -> Feed:
        return Feed(
            chain,
            self._ledger,
            self._encoder,
            page_entries_max=self._config.page_entries_max,
            recent_bytes_max=self._recent_bytes_max,
            on_entries=self._on_entries,
            on_erased=self._replays.forget,
            on_broken=self._on_broken,
        )

    def _recent_bytes_max(self) -> int:
        return min(self._config.recent_bytes_max, self._config.recent_bytes_total_max // max(1, len(self._by_chain)))

    def _on_broken(self, feed: Feed) -> None:
        assert feed.broken is not None
        log.error(
            "the chain contradicts what was streamed",
            reason=feed.broken.message,
            org_id=feed.chain.org_id,
            environment=feed.chain.environment,
        )
        self._forget(feed)
        self._tell_broken(feed)

    def _forget(self, feed: Feed) -> None:
        if self._by_chain.get(feed.chain) is feed:
            del self._by_chain[feed.chain]
            self._replays.forget(feed.chain)  # without a feed, no erasure in the chain is noticed
