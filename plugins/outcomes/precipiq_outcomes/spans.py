"""Time cut into whole months, whole days and rests, in UTC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

Span = Literal["month", "day"]
Interval = Literal["day", "week", "month"]

DAY_US = 86_400_000_000
FIRST_US = -(10**18)
LAST_US = 10**18

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_LEAST_US = -62_135_596_800_000_000  # 0001-01-01
_MOST_US = 253_402_300_800_000_000  # 10000-01-01
_MONDAY_US = -3 * DAY_US  # 1969-12-29


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a range: ``start_us`` <= time < ``end_us``. ``span``: of whole spans; None: without a whole day."""

    span: Span | None
    start_us: int
    end_us: int


def cover(start_us: int | None, end_us: int | None) -> list[Piece]:
    """The half-open range as few pieces: months, then days, then at most two rests. None: without end."""
    start = FIRST_US if start_us is None else start_us
    end = LAST_US if end_us is None else end_us
    if start >= end:
        return []
    first, last = _ceil("month", start), floor("month", end)
    if first >= last:
        return _days(start, end)
    return [*_days(start, first), Piece("month", first, last), *_days(last, end)]


def _days(start: int, end: int) -> list[Piece]:
    if start >= end:
        return []
    first, last = _ceil("day", start), floor("day", end)
    if first >= last:
        return [Piece(None, start, end)]
    pieces = [Piece(None, start, first), Piece("day", first, last), Piece(None, last, end)]
    return [piece for piece in pieces if piece.start_us < piece.end_us]


def floor(interval: Interval, us: int) -> int:
    """The start of the time's interval; a time beyond the calendar stays as it is."""
    if not _LEAST_US <= us < _MOST_US:
        return us
    if interval == "day":
        return us - us % DAY_US
    if interval == "week":
        return us - (us - _MONDAY_US) % (7 * DAY_US)
    day = us // DAY_US
    return (day + 1 - date.fromordinal(_EPOCH_ORDINAL + day).day) * DAY_US


def next_start(interval: Interval, start_us: int) -> int:
    """The start of the interval after the interval that starts there."""
    if interval == "day":
        return start_us + DAY_US
    if interval == "week":
        return start_us + 7 * DAY_US
    return floor("month", start_us + 32 * DAY_US)


def _ceil(span: Span, us: int) -> int:
    start = floor(span, us)
    return us if start == us else next_start(span, start)
