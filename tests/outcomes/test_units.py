"""The pure parts: amounts, spans of time, what a decision may cost."""

from __future__ import annotations

import itertools
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_contracts.clock import format_timestamp, parse_timestamp
from precipiq_outcomes.amounts import cents, plain, scale
from precipiq_outcomes.config import LiabilityConfig
from precipiq_outcomes.liability import Circumstances, RiskModel, estimate
from precipiq_outcomes.spans import DAY_US, Piece, cover, floor, next_start

CONFIG = LiabilityConfig()
MODEL = RiskModel(CONFIG.bases, CONFIG.base, CONFIG.cap, CONFIG.currency)
MOMENTS = st.integers(parse_timestamp("2023-11-01"), parse_timestamp("2026-03-15"))


@given(st.integers(-(10**18), 10**18))
def test_an_amount_comes_back_as_it_was(amount: int) -> None:
    assert scale(plain(amount)) == amount
    assert abs(Decimal(cents(amount)) - Decimal(amount) / 10_000) <= Decimal("0.005")
    assert not cents(amount).startswith("-0.00")


@pytest.mark.parametrize("text", ["", "x", "1.00001", "NaN", "Infinity", "1e400000000"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimal"):
        scale(text)


@given(MOMENTS, MOMENTS)
def test_a_range_is_covered_once_by_whole_months_and_days_and_two_rests(start: int, end: int) -> None:
    pieces = sorted(cover(start, end), key=lambda piece: piece.start_us)
    if start >= end:
        assert pieces == []
        return
    assert (pieces[0].start_us, pieces[-1].end_us) == (start, end)
    for one, next_one in itertools.pairwise(pieces):
        assert one.end_us == next_one.start_us
    for piece in pieces:
        if piece.span is not None:
            assert floor(piece.span, piece.start_us) == piece.start_us
            assert floor(piece.span, piece.end_us) == piece.end_us
        else:
            assert piece.end_us - piece.start_us < 2 * DAY_US
    assert len(pieces) <= 5
    assert [piece.span for piece in pieces].count(None) <= 2


def test_everything_is_months() -> None:
    (everything,) = cover(None, None)
    assert everything.span == "month"
    half = cover(parse_timestamp("2026-02-01"), None)
    assert [piece.span for piece in half] == ["month"]
    assert cover(5, 5) == []
    assert cover(parse_timestamp("2026-02-01"), parse_timestamp("2026-02-02")) == [
        Piece("day", parse_timestamp("2026-02-01"), parse_timestamp("2026-02-02"))
    ]


@pytest.mark.parametrize(
    ("interval", "at", "start", "following"),
    [
        ("day", "2024-02-29T23:59:59Z", "2024-02-29", "2024-03-01"),
        ("week", "2026-11-27T00:00:00Z", "2026-11-23", "2026-11-30"),
        ("week", "2026-11-23T00:00:00Z", "2026-11-23", "2026-11-30"),
        ("week", "1969-12-31T00:00:00Z", "1969-12-29", "1970-01-05"),
        ("month", "2024-02-29T12:00:00Z", "2024-02-01", "2024-03-01"),
        ("month", "2025-12-31T23:59:59Z", "2025-12-01", "2026-01-01"),
        ("month", "2026-01-31T23:59:59Z", "2026-01-01", "2026-02-01"),
    ],
)
def test_intervals_begin_where_people_expect(interval: str, at: str, start: str, following: str) -> None:
    begun = floor(interval, parse_timestamp(at))  # type: ignore[arg-type]
    assert format_timestamp(begun)[:10] == start
    assert format_timestamp(next_start(interval, begun))[:10] == following  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "low", "human", "past", "losses", "expected"),
    [
        ("email_send", False, True, 0, 0, "250.00"),
        ("email_send", False, False, 4, 4, "375.00"),
        ("email_send", False, True, 5, 0, "50.00"),
        ("email_send", False, True, 5, 5, "500.00"),
        ("pricing_change", True, False, 3, 0, "15000.00"),
        ("contract_generation", False, True, 3, 1, "5000.00"),
        ("claim_denial", False, False, 6, 2, "25000.00"),
        ("medical_recommendation", True, False, 100, 100, "600000.00"),
        ("anything", False, False, 7, 3, "6428.57"),
    ],
)
def test_what_a_decision_may_cost(action: str, low: bool, human: bool, past: int, losses: int, expected: str) -> None:
    found = estimate(MODEL, Circumstances(action, low, human, past, losses))
    assert f"{found.exposure:.2f}" == expected
    assert abs(found.low * 2 - found.exposure) <= Decimal("0.01")
    assert found.high == found.exposure * 2


def test_no_decision_is_estimated_above_the_cap() -> None:
    model = RiskModel({}, Decimal(10**9), Decimal(10_000_000), "USD")
    assert estimate(model, Circumstances("x", True, False, 9, 9)).exposure == 10_000_000
