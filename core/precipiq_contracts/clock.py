"""Time, randomness and ids, and how times are written. ``precipiq_core.system`` reads clock and random source."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

LAST_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z, the last time that can be written."""


class Clock(Protocol):
    """Where the time of day comes from."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""


class Randomness(Protocol):
    """Where salts, ids and keys get their bytes."""

    def bytes(self, count: int) -> bytes:
        """``count`` bytes fit for secrets."""


@lru_cache(maxsize=256)
def _format_second(second: int) -> str:
    # Not with strftime, which writes years before 1000 with fewer digits on some systems.
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19] + "."


def format_timestamp(us: int) -> str:
    """Microseconds since the epoch as ``YYYY-MM-DDTHH:MM:SS.ffffffZ``."""
    second, rest = divmod(us, 1_000_000)
    return f"{_format_second(second)}{rest:06d}Z"


def format_moment(us: int | None) -> str | None:
    """As :func:`format_timestamp`; None for None."""
    return None if us is None else format_timestamp(us)


def parse_timestamp(text: str) -> int:
    """The reverse of :func:`format_timestamp`; also takes an offset or a bare date (UTC).

    For what is stored; times of callers go through ``precipiq_core.times``.
    Raises ``ValueError`` when ``text`` is no ISO 8601 date or time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def uuid7(us: int, randomness: bytes) -> str:
    """A UUIDv7 (RFC 9562 section 5.7) for that time; ``randomness`` is 10 bytes."""
    low = int.from_bytes(randomness, "big")
    value = (us // 1000) << 80 | 0x7 << 76 | (low >> 68 & 0xFFF) << 64 | 0x2 << 62 | low & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
