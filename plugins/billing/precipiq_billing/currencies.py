"""Which currencies are money, how many decimals each has, and until when those that were withdrawn were money. Pure.

ISO 4217 comes from the library ``iso4217``, which forgets what was withdrawn.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from iso4217 import Currency

DECIMALS_MAX = 4


class NotMoney(ValueError):
    """The text is no amount or no currency; says what is wrong."""


class Withdrawn(NamedTuple):
    """A currency of the past. ``end``: when it had ceased to be legal tender, as the chain writes times."""

    exponent: int
    end: str


def _until(day: str, exponent: int = 2) -> Withdrawn:
    return Withdrawn(exponent, f"{day}T00:00:00.000000Z")


# The day after the last on which each was legal tender, by the decree that replaced it.
WITHDRAWN = {
    "SIT": _until("2007-01-15"),
    "CYP": _until("2008-02-01"),
    "MTL": _until("2008-02-01"),
    "SKK": _until("2009-01-17"),
    "EEK": _until("2011-01-15"),
    "ZMK": _until("2013-07-01"),
    "LVL": _until("2014-01-15"),
    "LTL": _until("2015-01-16"),
    "BYR": _until("2017-01-01", 0),
    "MRO": _until("2018-07-01"),
    "STD": _until("2018-07-01"),
    "VEF": _until("2018-12-06"),
    "CUC": _until("2021-07-01"),
    "HRK": _until("2023-01-15"),
    "SLL": _until("2024-04-01"),
    "ZWL": _until("2024-09-01"),
    "ANG": _until("2025-07-01"),
    "BGN": _until("2026-02-01"),
}
"""Accepted for money that moved before their end."""

# Codes of ISO 4217 in which nobody is paid: no currency, tests, metals, units of account, and funds.
_NO_MONEY = frozenset(
    (
        *("XXX", "XTS", "XAU", "XAG", "XPT", "XPD", "XAD", "XBA", "XBB", "XBC", "XBD", "XDR", "XSU", "XUA"),
        *("BOV", "CHE", "CHW", "CLF", "COU", "MXV", "USN", "UYI", "UYW"),
    )
)


@lru_cache(maxsize=512)
def currency_exponent(code: str) -> int:
    """Decimals of that currency by ISO 4217. Raises ``NotMoney`` for a code that is unknown or that nobody pays in."""
    if code in WITHDRAWN:
        return WITHDRAWN[code].exponent
    if code in _NO_MONEY:
        raise NotMoney("must be a currency in which money is paid: this code of ISO 4217 is none")
    try:
        exponent = Currency(code).exponent
    except ValueError:
        raise NotMoney("must be an ISO 4217 currency code, three capital letters") from None
    return 2 if exponent is None else min(exponent, DECIMALS_MAX)


def withdrawal_problem(code: str, occurred_at: str) -> str | None:
    """What is wrong with money of that currency at that time, written as the chain writes times; None when nothing."""
    if code not in WITHDRAWN or occurred_at < WITHDRAWN[code].end:
        return None
    return f"must be before {WITHDRAWN[code].end[:10]}, when {code} was withdrawn"
