"""Amounts and currencies, exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_billing.currencies import WITHDRAWN, NotMoney, currency_exponent, withdrawal_problem
from precipiq_billing.money import canonical_amount, sign_problem, stripe_amount


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("10", "USD", "10.00"),
        ("10.5", "USD", "10.50"),
        ("+10.1234", "USD", "10.1234"),
        ("10.1200", "USD", "10.12"),
        ("-0", "USD", "0.00"),
        ("-0.0001", "USD", "-0.0001"),
        ("007", "JPY", "7"),
        ("7.0", "JPY", "7"),
        ("1", "KWD", "1.000"),
        ("99999999999999.9999", "EUR", "99999999999999.9999"),
        ("0.0004", "USD", "0.0004"),
        ("1", "HRK", "1.00"),
        ("1", "BGN", "1.00"),
        ("1", "BYR", "1"),
    ],
)
def test_an_amount_has_one_form(text: str, currency: str, expected: str) -> None:
    assert canonical_amount(text, currency) == expected
    assert canonical_amount(expected, currency) == expected


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1e3", "1,000", "0x1", "NaN", "Infinity", ".5", "5.", "1.12345", "1" * 15, "--1", "1_0", "\u0661"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(NotMoney):
        canonical_amount(text, "USD")


@pytest.mark.parametrize(("text", "currency"), [("7.25", "JPY"), ("-0.5", "JPY"), ("1.0001", "ISK"), ("0.1", "BYR")])
def test_where_there_is_no_minor_unit_half_a_unit_is_no_amount(text: str, currency: str) -> None:
    with pytest.raises(NotMoney, match=f"whole number: {currency}"):
        canonical_amount(text, currency)


def test_a_withdrawn_currency_is_money_of_its_time() -> None:
    assert withdrawal_problem("HRK", "2022-12-31T23:59:59.999999Z") is None
    assert (
        withdrawal_problem("HRK", "2023-01-15T00:00:00.000000Z") == "must be before 2023-01-15, when HRK was withdrawn"
    )
    assert withdrawal_problem("EUR", "2999-01-01T00:00:00.000000Z") is None
    assert all(currency_exponent(code) in (0, 2) for code in WITHDRAWN)


@pytest.mark.parametrize(
    "code", ["usd", "US", "USDT", "", "ZZZ", "Usd", "$$$", "XXX", "XTS", "XAU", "XDR", "CLF", "USN"]
)
def test_what_is_no_currency_is_refused(code: str) -> None:
    with pytest.raises(NotMoney):
        currency_exponent(code)


@pytest.mark.parametrize(
    ("minor", "currency", "expected"),
    [
        (2000, "USD", "20.00"),
        (5, "USD", "0.05"),
        (-5, "EUR", "-0.05"),
        (0, "USD", "0.00"),
        (500, "JPY", "500"),
        (500, "KRW", "500"),
        (500, "MGA", "500.00"),
        (1230, "KWD", "1.230"),
        (5000, "ISK", "50"),
        (5050, "UGX", "50.5"),
        (1000, "HUF", "10.00"),
        (1000, "TWD", "10.00"),
    ],
)
def test_stripes_minor_units(minor: int, currency: str, expected: str) -> None:
    assert stripe_amount(minor, currency) == expected


@given(st.integers(-(10**14), 10**14), st.sampled_from(["USD", "JPY", "KWD", "ISK", "MGA", "CLP", "TND"]))
def test_an_amount_of_stripe_keeps_its_value(minor: int, currency: str) -> None:
    exponent = 0 if currency in ("JPY", "MGA", "CLP") else 3 if currency in ("KWD", "TND") else 2
    assert Decimal(stripe_amount(minor, currency)) == Decimal(minor).scaleb(-exponent)


@pytest.mark.parametrize(
    ("event_type", "amount", "is_right"),
    [
        ("payment", "1.00", True),
        ("payment", "-1.00", False),
        ("invoice", "0.00", True),
        ("cost", "0.00", True),
        ("payment", "0.00", False),
        ("refund", "0.00", False),
        ("chargeback", "0", False),
        ("refund", "-1.00", True),
        ("refund", "1.00", False),
        ("chargeback", "0.01", False),
        ("cost", "-0.01", True),
        ("liability", "5.00", False),
        ("expense", "5.00", False),
        ("write_off", "5.00", False),
        ("other", "5.00", True),
        ("other", "-5.00", True),
    ],
)
def test_each_type_has_its_sign(event_type: str, amount: str, is_right: bool) -> None:
    assert (sign_problem(event_type, amount) is None) is is_right
