"""Amounts: exact, as decimal strings. Pure; no float ever holds money.

Stripe's minor units are those of https://docs.stripe.com/currencies.
"""

from __future__ import annotations

import re
from decimal import Decimal

from precipiq_billing.currencies import DECIMALS_MAX, NotMoney, currency_exponent

INTEGER_DIGITS_MAX = 14

POSITIVE_TYPES = frozenset(("payment", "invoice"))
NEGATIVE_TYPES = frozenset(("refund", "chargeback", "cost", "liability", "expense", "write_off"))
# A payment, refund or chargeback of nothing did not happen. A call can cost nothing, an invoice can be over nothing.
MOVING_TYPES = frozenset(("payment", "refund", "chargeback"))

# Currencies that Stripe counts in whole units, and in thousandths. It counts all others in hundredths, even where ISO
# 4217 has no minor unit: ISK and UGX.
_WHOLE = ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF")
_THOUSANDTHS = ("BHD", "JOD", "KWD", "OMR", "TND")
_STRIPE_EXPONENT = {**dict.fromkeys(_WHOLE, 0), **dict.fromkeys(_THOUSANDTHS, 3)}
_AMOUNT = re.compile(rf"([+-]?)(\d{{1,{INTEGER_DIGITS_MAX}}})(?:\.(\d{{1,{DECIMALS_MAX}}}))?", re.ASCII)


def canonical_amount(text: str, currency: str) -> str:
    """The amount with at least the currency's decimals and no needless zeros beyond: ``10`` USD is ``10.00``.

    Fractions of the minor unit are money, such as the price of a call; where a currency has none, fractions are not.
    Raises ``NotMoney``: not a decimal number, too many digits, half a yen.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise NotMoney(
            f"must be a decimal number with up to {INTEGER_DIGITS_MAX} digits before and {DECIMALS_MAX} after the point"
        )
    sign, whole, fraction = match.groups()
    exponent = currency_exponent(currency)
    if exponent == 0 and (fraction or "").strip("0"):
        raise NotMoney(f"must be a whole number: {currency} has no minor unit")
    return _text(sign == "-", whole.lstrip("0") or "0", fraction or "", exponent)


def sign_problem(event_type: str, amount: str) -> str | None:
    """What is wrong with the sign of a canonical amount for that type of event; None when it is right. 0 has none."""
    if event_type in MOVING_TYPES and Decimal(amount) == 0:
        return f"must not be 0 for a {event_type}: no money moved"
    if event_type in POSITIVE_TYPES and amount.startswith("-"):
        return f"must not be negative for a {event_type}"
    if event_type in NEGATIVE_TYPES and Decimal(amount) > 0:
        return f"must not be positive for a {event_type}: money that goes out is negative"
    return None


def stripe_amount(minor: int, currency: str) -> str:
    """An amount in Stripe's minor units as a canonical amount: 500 of JPY is ``500``, of USD ``5.00``."""
    exponent = _STRIPE_EXPONENT.get(currency, 2)
    digits = str(abs(minor)).rjust(exponent + 1, "0")
    whole, fraction = digits[: len(digits) - exponent], digits[len(digits) - exponent :]
    return _text(minor < 0, whole, fraction, currency_exponent(currency))


def _text(is_negative: bool, whole: str, fraction: str, exponent: int) -> str:
    fraction = fraction.rstrip("0").ljust(exponent, "0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if is_negative and number.strip("0.") else number
