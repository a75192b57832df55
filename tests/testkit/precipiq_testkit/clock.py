"""Time and randomness for tests, for the Protocols of ``precipiq_contracts.clock``: only the test moves them."""

from __future__ import annotations

import random

START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, where a :class:`ManualClock` starts by default."""


class ManualClock:
    """A clock that stands still until :meth:`advance`, which moves time of day and monotonic time together."""

    def __init__(self, now_us: int = START_US) -> None:
        self._now_us = now_us
        self._elapsed_us = 0

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""
        return self._now_us

    def monotonic_s(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed_us / 1_000_000

    def advance(self, seconds: float = 0.0, *, us: int = 0) -> None:
        """Let that much time pass. Raises ``ValueError`` when it would go back."""
        step_us = round(seconds * 1_000_000) + us
        if step_us < 0:
            raise ValueError("a clock does not go back")
        self._now_us += step_us
        self._elapsed_us += step_us

    def step(self, seconds: float) -> None:
        """Set the time of day forward, or back; the monotonic time stands still."""
        self._now_us += round(seconds * 1_000_000)


class SeededRandomness:
    """Bytes that follow from the seed alone: the same seed gives the same salts and ids. Fit for tests only."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        return self._random.randbytes(count)
