"""Money as whole ten-thousandths, so that sums are exact; decimal strings outside. Pure."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_SCALE = 10_000
_CENT = Decimal("0.01")


def scale(amount: str) -> int:
    """Ten-thousandths of a decimal string with up to four decimals. Raises ``ValueError`` for anything else."""
    try:
        number = Decimal(amount) * _SCALE
    except ArithmeticError:
        raise ValueError("not a decimal number") from None
    if not number.is_finite() or number != number.to_integral_value():
        raise ValueError("more than four decimals")
    return int(number)


def plain(amount: int) -> str:
    """The amount with up to four decimals and no needless zeros beyond two."""
    text = f"{Decimal(amount) / _SCALE:.4f}"
    return text[:-2] if text.endswith("00") else text.rstrip("0")


def cents(amount: int) -> str:
    """The amount rounded to two decimals, half away from zero."""
    return f"{round_amount(Decimal(amount) / _SCALE):.2f}"


def round_amount(amount: Decimal) -> Decimal:
    """Round to two decimals, half away from zero; never to a negative zero."""
    return amount.quantize(_CENT, ROUND_HALF_UP) + 0
