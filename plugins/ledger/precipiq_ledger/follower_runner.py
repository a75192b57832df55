"""Tells followers which chains grew: at once for this process's appends, by a look at all heads for the others'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from precipiq_contracts.background import LONG_ROUND_S_MAX, Background
from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import PrecipiqError, Unavailable
from precipiq_contracts.followers import Follower
from precipiq_ledger.config import LedgerConfig
from precipiq_ledger.heads import heads_of
from precipiq_ledger.service import LedgerService
from precipiq_work.turns import Turns

log = structlog.get_logger("precipiq.ledger")

_REMEMBERED_CHAINS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """``delay_s``: how long a growing chain gathers entries first. ``sweep_s``: between looks at all heads.

    ``running_max``: chains that followers catch up with at the same time; organisations take turns, and none has all.
    ``rest_s``: how long a chain is left alone after it was caught up, so that one that goes on growing is taken in with
    few and large batches.
    """

    delay_s: float
    sweep_s: float
    running_max: int
    rest_s: float = 0.0

    @classmethod
    def of(cls, config: LedgerConfig) -> RunnerLimits:
        """Those of a deployment."""
        return cls(config.follower_delay_s, config.follower_sweep_s, config.follower_chains_max, config.follower_rest_s)


class FollowerRunner:
    """Followers of one process. The next sweep retries a chain whose follower failed."""

    def __init__(self, service: LedgerService, followers: Mapping[str, Follower], limits: RunnerLimits) -> None:
        self._service = service
        self._followers = followers
        self._limits = limits
        self._grown: dict[Chain, None] = {}
        self._turns = Turns(limits.running_max, _REMEMBERED_CHAINS_MAX, kept_free=1)
        self._running: dict[Chain, asyncio.Task[None]] = {}
        self._grown_again: set[Chain] = set()
        self._news = asyncio.Event()
        self._seen: dict[Chain, int] = {}
        self._failing: set[str] = set()
        self._behind: set[tuple[str, Chain]] = set()

    def note(self, chain: Chain) -> None:
        """Note that the chain has grown. Called after every append, so it must be cheap."""
        if len(self._grown) < _REMEMBERED_CHAINS_MAX:
            self._grown[chain] = None
        self._news.set()

    @asynccontextmanager
    async def run(self, background: Background) -> AsyncIterator[None]:
        """Tell followers while the context is entered."""
        if not self._followers:
            yield
            return
        sweep_s = self._limits.sweep_s
        sweeping = background(
            "ledger.follower_sweep",
            self._sweep,
            every_s=sweep_s,
            failing="follower is behind; it is tried again",
            round_s_max=LONG_ROUND_S_MAX,
        )
        telling = background(
            "ledger.followers",
            self._catch_up_all,
            every_s=sweep_s,
            failing="followers are not told of grown chains",
            wake=self._news,
            final=self._leave_all,
        )
        reporting = background(
            "ledger.followers_behind", self._report_behind, every_s=sweep_s, failing="followers are behind"
        )
        async with telling, sweeping, reporting:
            yield

    async def _sweep(self) -> None:
        """Find the chains that grew without this process."""
        store = self._service.store
        async for chain, known in heads_of(store):
            head = known or await store.head(chain)
            if head is not None and self._seen.get(chain) != head.seq:
                self._remember(chain, head.seq)
                self._grown[chain] = None
                self._news.set()

    async def _report_behind(self) -> None:
        """A task of its own, so that one chain that cannot be caught up delays no other."""
        if self._behind:
            names = ", ".join(sorted({name for name, _ in self._behind}))
            raise Unavailable(f"{names}: {len(self._behind)} chains could not be taken in")

    async def _catch_up_all(self) -> None:
        if not self._grown:
            return
        await asyncio.sleep(self._limits.delay_s)
        chains, self._grown = list(self._grown), {}
        for chain in chains:
            if chain in self._running:
                self._grown_again.add(chain)
            elif len(self._running) < _REMEMBERED_CHAINS_MAX:
                # A bare task: the longest chain must not keep the next round, and so the others, waiting.
                self._running[chain] = asyncio.create_task(self._catch_up_chain(chain))
            else:
                self._grown[chain] = None

    async def _catch_up_chain(self, chain: Chain) -> None:
        try:
            async with self._turns.of(chain):
                for name, follower in self._followers.items():
                    await self._catch_up(name, follower, chain)
            await asyncio.sleep(self._limits.rest_s)
        finally:
            del self._running[chain]
            if chain in self._grown_again:
                self._grown_again.discard(chain)
                self.note(chain)

    async def _leave_all(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _catch_up(self, name: str, follower: Follower, chain: Chain) -> None:
        try:
            await follower.catch_up(chain)
            self._behind.discard((name, chain))
            if not any(behind == name for behind, _ in self._behind):
                self._failing.discard(name)
        except Exception as error:  # noqa: BLE001  (a follower may be a third party's; the others go on)
            self._seen.pop(chain, None)  # so that the next sweep tries it again
            if len(self._behind) < _REMEMBERED_CHAINS_MAX:
                self._behind.add((name, chain))
            self._note_failure(name, chain, error)

    def _note_failure(self, name: str, chain: Chain, error: Exception) -> None:
        """Log the failure once, until the follower works again."""
        if name in self._failing:
            return
        self._failing.add(name)
        where = {"org_id": chain.org_id, "environment": chain.environment}
        if isinstance(error, PrecipiqError):
            log.warning("follower is behind; it is tried again", follower=name, reason=error.message, **where)
        else:
            log.error("follower failed; it is tried again", follower=name, exc_info=error, **where)

    def _remember(self, chain: Chain, seq: int) -> None:
        if len(self._seen) >= _REMEMBERED_CHAINS_MAX:
            self._seen.clear()
        self._seen[chain] = seq
