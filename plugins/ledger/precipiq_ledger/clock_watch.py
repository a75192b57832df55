"""Watches the wall clock: against the monotonic clock, the database's clock and the heads of chains.

The chain format moves a timestamp past the one before, so one entry sealed by a clock that is ahead pins all that
follow. This module owns the decision when no entry may be sealed, and says what is wrong in log, metric and readiness.
Used from the event loop and from writers' threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from precipiq_contracts.background import Background
from precipiq_contracts.chain import Chain, Head
from precipiq_contracts.clock import Clock, parse_timestamp
from precipiq_contracts.errors import Unavailable
from precipiq_ledger.errors import ClockUntrusted

log = structlog.get_logger("precipiq.ledger")

_SECOND_US = 1_000_000
_CHAINS_MAX = 1000
_TOLD_EVERY_S = 60.0
_STEP_TOLD_S = 300.0
"""How long ``/readyz`` names a step that was larger than a clock may be ahead; then the new time counts."""
_RETRY_S_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class ClockLimits:
    """See the settings ``clock_*`` of the ledger."""

    ahead_warn_s: float = 5.0
    ahead_max_s: float = 300.0
    step_max_s: float = 2.0
    interval_s: float = 5.0


class ClockMetrics:
    """The metrics of the clock."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ahead = Gauge(
            "precipiq_clock_head_ahead_seconds",
            "how far the newest entry of a chain is ahead of this server's clock, of all chains the farthest",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.steps = Counter(
            "precipiq_clock_steps", "steps of the wall clock, by direction", ("direction",), registry=registry
        )
        for direction in ("forward", "back"):
            self.steps.labels(direction)
        self.refused = Counter(
            "precipiq_clock_refused_seals", "seals refused because a clock is wrong", registry=registry
        )


@dataclass(slots=True)
class _Pinned:
    """A chain whose head is ahead. ``told_s``: when the log last said so, ``is_refused``: whether as a refusal."""

    head_us: int
    told_s: float
    is_refused: bool


class ClockWatch:
    """One for each process. ``reference``: reads another machine's clock, microseconds since the epoch."""

    def __init__(self, clock: Clock, limits: ClockLimits, metrics: ClockMetrics | None = None) -> None:
        self.reference: Callable[[], Awaitable[int]] | None = None
        self._clock = clock
        self._limits = limits
        self._metrics = metrics or ClockMetrics(CollectorRegistry())
        self._lock = threading.Lock()
        self._pinned: OrderedDict[Chain, _Pinned] = OrderedDict()
        self._seen = (clock.now_us(), clock.monotonic_s())
        self._step: tuple[float, float] | None = None
        self._off_s = 0.0

    def run(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Look while the context is entered; ``/readyz`` names the task as soon as a clock is wrong."""
        return background(
            "ledger.clock",
            self.look,
            every_s=self._limits.interval_s,
            failing="the clock is wrong",
            again="the clock is right again",
            overdue_s=0.0,
        )

    def time_of_seal(self, chain: Chain, head: Head | None) -> int:
        """The time for entries after that head. Raises ``ClockUntrusted`` when a clock is too far off."""
        now_us = self._clock.now_us()
        reason = self._describe_off() if self._off_s > self._limits.ahead_max_s else None
        ahead_s = self.note_head(chain, head, now_us)
        if ahead_s > self._limits.ahead_max_s:
            reason = f"the chain's newest entry is {ahead_s:.0f} s ahead of this server's clock"
        if reason is not None:
            self._metrics.refused.inc()
            retry_s = min(max(ahead_s - self._limits.ahead_max_s, 1.0), _RETRY_S_MAX)
            raise ClockUntrusted(f"nothing can be recorded: {reason}", retry_after_s=retry_s)
        return now_us

    def note_head(self, chain: Chain, head: Head | None, now_us: int | None = None) -> float:
        """Note the head of a chain; how far it is ahead of the clock, in seconds."""
        if head is None:
            return 0.0
        ahead_s = (head.timestamp_us - (self._clock.now_us() if now_us is None else now_us)) / _SECOND_US
        if ahead_s > self._limits.ahead_warn_s:
            self._note_pinned(chain, head, ahead_s)
        elif chain in self._pinned:
            with self._lock:
                self._pinned.pop(chain, None)
        return ahead_s

    async def look(self) -> None:
        """Compare the clocks once. Raises ``ClockUntrusted`` while one is wrong."""
        self._look_for_step()
        await self._look_at_reference()
        trouble = self._trouble()
        if trouble is not None:
            raise ClockUntrusted(trouble)

    def doubt(self, seq: int, timestamp: str) -> str | None:
        """The sentence of a verdict about the newest checked entry, if its time is ahead of the clock."""
        try:
            ahead_s = (parse_timestamp(timestamp) - self._clock.now_us()) / _SECOND_US
        except ValueError:
            return None
        if ahead_s <= self._limits.ahead_warn_s:
            return None
        return f"whether times are right: entry {seq} is {ahead_s:.0f} s ahead of this server's clock"

    def _note_pinned(self, chain: Chain, head: Head, ahead_s: float) -> None:
        now_s, is_refused = self._clock.monotonic_s(), ahead_s > self._limits.ahead_max_s
        with self._lock:
            known = self._pinned.pop(chain, None)
            is_told = known is not None and known.is_refused == is_refused and now_s - known.told_s < _TOLD_EVERY_S
            told_s = known.told_s if known is not None and is_told else now_s
            self._pinned[chain] = _Pinned(head.timestamp_us, told_s, is_refused)
            if len(self._pinned) > _CHAINS_MAX:
                self._pinned.popitem(last=False)
        if is_told:
            return
        names = {"org_id": chain.org_id, "environment": chain.environment, "seq": head.seq, "ahead_s": round(ahead_s)}
        if is_refused:
            log.critical("a chain is ahead of the clock: nothing is recorded in it", **names)
        else:
            log.warning("a chain is ahead of the clock: its timestamps wait for the clock", **names)

    def _look_for_step(self) -> None:
        wall_us, monotonic_s = self._clock.now_us(), self._clock.monotonic_s()
        step_s = (wall_us - self._seen[0]) / _SECOND_US - (monotonic_s - self._seen[1])
        self._seen = (wall_us, monotonic_s)
        if abs(step_s) <= self._limits.step_max_s:
            return
        self._metrics.steps.labels("forward" if step_s > 0 else "back").inc()
        if abs(step_s) > self._limits.ahead_max_s:
            self._step = (step_s, monotonic_s)
        log.critical("the clock was set while the server ran", by_s=round(step_s, 3))

    async def _look_at_reference(self) -> None:
        """How far this clock is certainly off: the other clock was read between two looks at this one."""
        if self.reference is None:
            return
        before_us = self._clock.now_us()
        try:
            reference_us = await self.reference()
        except Unavailable:
            return  # the database's own health check says so
        after_us = self._clock.now_us()
        ahead_us, behind_us = before_us - reference_us, reference_us - after_us
        was_off, self._off_s = abs(self._off_s), max(ahead_us, 0) / _SECOND_US - max(behind_us, 0) / _SECOND_US
        if was_off <= self._limits.ahead_max_s < abs(self._off_s):
            log.critical("this server's clock and the database's disagree", ahead_s=round(self._off_s, 3))

    def _trouble(self) -> str | None:
        now_us, now_s = self._clock.now_us(), self._clock.monotonic_s()
        with self._lock:
            ahead = {chain: (pinned.head_us - now_us) / _SECOND_US for chain, pinned in self._pinned.items()}
            for chain, ahead_s in ahead.items():
                if ahead_s <= self._limits.ahead_warn_s:
                    del self._pinned[chain]
        farthest_s = max(ahead.values(), default=0.0)
        self._metrics.ahead.set(max(farthest_s, 0.0))
        if abs(self._off_s) > self._limits.ahead_max_s:
            return self._describe_off()
        if farthest_s > self._limits.ahead_max_s:
            return f"the newest entry of a chain is {farthest_s:.0f} s ahead of this server's clock"
        if self._step is not None and now_s - self._step[1] < _STEP_TOLD_S:
            return f"this server's clock was set by {self._step[0]:+.0f} s"
        return None

    def _describe_off(self) -> str:
        where = "ahead of" if self._off_s > 0 else "behind"
        return f"this server's clock is {abs(self._off_s):.0f} s {where} the database's"
