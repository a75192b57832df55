"""The times that callers may give: one range, read alike by the chain and by everything that reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from precipiq_contracts.clock import LAST_US, format_timestamp, parse_timestamp
from precipiq_core.http.validation import EndMoment, Moment, RequestModel
from precipiq_core.times import FIRST_US, accept_end, accept_time


class Range(RequestModel):
    start: Moment | None = None
    end: EndMoment | None = None


@given(st.integers(FIRST_US, LAST_US))
def test_an_accepted_time_has_four_digits_and_reads_back(us: int) -> None:
    text = format_timestamp(us)
    assert (len(text), accept_time(text), Range(start=text).start) == (27, us, text)


@given(st.integers(-62_135_596_800_000_000, LAST_US))
def test_no_year_is_ever_written_with_fewer_digits(us: int) -> None:
    assert format_timestamp(us)[4:5] == "-"


@pytest.mark.parametrize(
    "text",
    [
        "0999-12-31",
        "0999-12-31T23:59:59.999999Z",
        "0001-01-01",
        "1000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59.999999-00:01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_other_years_are_refused_with_the_reason(text: str) -> None:
    for accept in (accept_time, accept_end):
        with pytest.raises(ValueError, match="years 1000 to 9999"):
            accept(text)
    for name in ("start", "end"):
        with pytest.raises(ValidationError, match="years 1000 to 9999"):
            Range.model_validate_strings({name: text})


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "-0001-01-01", "+10000-01-01", "10000-01-01", "0000-01-01"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        accept_end(text)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2026-01-31", "2026-02-01T00:00:00.000000Z"),
        ("20260131", "2026-02-01T00:00:00.000000Z"),
        ("2026-W05-6", "2026-02-01T00:00:00.000000Z"),
        ("2026-01-31T00", "2026-01-31T00:00:00.000000Z"),
        ("1000-01-01", "1000-01-02T00:00:00.000000Z"),
        ("9999-12-31", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_bare_end_date_includes_its_day(text: str, end: str) -> None:
    assert Range(end=text).end == end == format_timestamp(accept_end(text))


def test_what_was_sealed_before_can_still_be_read() -> None:
    assert format_timestamp(parse_timestamp("0001-01-01")) == "0001-01-01T00:00:00.000000Z"


def test_the_bounds_are_the_years_themselves() -> None:
    assert json.dumps([format_timestamp(FIRST_US), format_timestamp(LAST_US)]) == json.dumps(
        ["1000-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"]
    )
