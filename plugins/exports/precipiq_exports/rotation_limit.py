"""How often a chain's signing key may be replaced: one rotation at a time, and so many in an hour of this process."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from precipiq_contracts.chain import Chain
from precipiq_contracts.clock import Clock
from precipiq_contracts.errors import RateLimited

_WINDOW_S = 3600.0
_CHAINS_MAX = 10_000


class RotationLimit:
    """Counts by a clock that cannot go back; remembers 10,000 chains, those that rotated last."""

    def __init__(self, clock: Clock, per_hour_max: int) -> None:
        self._clock = clock
        self._per_hour_max = per_hour_max
        self._began_s: OrderedDict[Chain, deque[float]] = OrderedDict()
        self._running: set[Chain] = set()

    @contextmanager
    def admit(self, chain: Chain) -> Iterator[None]:
        """Count a rotation, which lasts as long as the context. Raises ``RateLimited``, and counts nothing then."""
        if chain in self._running:
            raise RateLimited("the signing key is being rotated already")
        now_s = self._clock.monotonic_s()
        began_s = self._began_s.setdefault(chain, deque())
        while began_s and began_s[0] <= now_s - _WINDOW_S:
            began_s.popleft()
        if len(began_s) >= self._per_hour_max:
            raise RateLimited(
                f"the signing key was rotated {len(began_s)} times in an hour",
                retry_after_s=began_s[0] + _WINDOW_S - now_s,
            )
        began_s.append(now_s)
        self._began_s.move_to_end(chain)
        if len(self._began_s) > _CHAINS_MAX:
            self._began_s.popitem(last=False)
        self._running.add(chain)
        try:
            yield
        finally:
            self._running.discard(chain)
