"""How often a client may do what costs much and brings little: a token bucket (as RFC 2697 has it, with one rate)."""

from __future__ import annotations

from collections.abc import Callable


class Allowance:
    """Starts with ``burst`` tokens, which is also the most; ``per_second`` come in. ``now_s``: a monotonic clock."""

    __slots__ = ("_burst", "_now_s", "_per_second", "_seen_s", "_tokens")

    def __init__(self, per_second: float, burst: float, now_s: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._now_s = now_s
        self._tokens = burst
        self._seen_s = now_s()

    def spend(self, tokens: float) -> float:
        """Take that many, into debt if need be; the seconds until no debt is left, 0 without one."""
        if tokens > self._tokens:
            now_s = self._now_s()
            self.earn((now_s - self._seen_s) * self._per_second)
            self._seen_s = now_s
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._per_second)

    def earn(self, tokens: float) -> None:
        """Give that many back, up to the burst."""
        self._tokens = min(self._burst, self._tokens + tokens)
