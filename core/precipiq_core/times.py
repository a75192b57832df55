"""The times that callers may give: one range for every endpoint, stream, webhook and command.

From year 1000 to 9999. All of them have four digits in the chain, in PostgreSQL, SQLite and JavaScript alike, without
padding, and text order is time order. Below, systems differ: some write fewer digits, PostgreSQL has no year 0, and
JavaScript's ``Date`` reads the years 0 to 99 as 1900 to 1999. Above, five digits and a sign are needed.
"""

from __future__ import annotations

from datetime import date

from precipiq_contracts.clock import LAST_US, parse_timestamp

FIRST_US = -30_610_224_000_000_000
"""1000-01-01T00:00:00Z."""

_DAY_US = 86_400_000_000


def accept_time(text: str) -> int:
    """An ISO 8601 date or time (UTC unless it says otherwise) as microseconds since the epoch.

    Raises ``ValueError`` with a sentence for the caller.
    """
    try:
        us = parse_timestamp(text)
    except (ValueError, OverflowError):
        raise ValueError("must be an ISO 8601 date or time") from None
    if not FIRST_US <= us <= LAST_US:
        raise ValueError("must lie in the years 1000 to 9999")
    return us


def accept_end(text: str) -> int:
    """As :func:`accept_time`, for the end of a half-open range: a bare date includes that UTC day.

    The last day's end is the last microsecond that can be written.
    """
    us = accept_time(text)
    try:
        date.fromisoformat(text)
    except ValueError:
        return us
    return min(us + _DAY_US, LAST_US)
