"""Time, ids and randomness."""

from __future__ import annotations

import os
import pickle
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precipiq_contracts.clock import format_timestamp, parse_timestamp, uuid7
from precipiq_core.system import SystemClock, SystemRandomness

MOMENTS_US = st.integers(0, 253_402_300_799_999_999)
YEAR_1_US = -62_135_596_800_000_000


@given(st.integers(YEAR_1_US, -1) | MOMENTS_US)
def test_a_formatted_timestamp_parses_back(us: int) -> None:
    text = format_timestamp(us)

    assert len(text) == 27
    assert parse_timestamp(text) == us


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01", "2026-01-01T00:00:00.000000Z"),
        ("2026-01-01T00:00:00+02:00", "2025-12-31T22:00:00.000000Z"),
        ("2026-01-01T00:00:00.5", "2026-01-01T00:00:00.500000Z"),
    ],
)
def test_offsets_are_converted_and_bare_dates_are_utc(text: str, expected: str) -> None:
    assert format_timestamp(parse_timestamp(text)) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "1767225600", "2026-02-30T00:00:00Z"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timestamp(text)


@given(MOMENTS_US, st.binary(min_size=10, max_size=10))
def test_a_uuid7_holds_its_millisecond_its_version_and_74_random_bits(us: int, drawn: bytes) -> None:
    made = uuid.UUID(uuid7(us, drawn))

    assert made.int >> 80 == us // 1000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    low = int.from_bytes(drawn, "big")
    assert made.int & (1 << 62) - 1 == low & (1 << 62) - 1
    assert made.int >> 64 & 0xFFF == low >> 68 & 0xFFF


def test_ids_of_later_milliseconds_sort_later() -> None:
    ids = [uuid7(millisecond * 1000, b"\xff" * 10 if millisecond % 2 else bytes(10)) for millisecond in range(100)]

    assert ids == sorted(ids)


def test_the_machines_clock_is_utc_in_microseconds() -> None:
    before, now_us, after = datetime.now(UTC), SystemClock().now_us(), datetime.now(UTC)

    assert before.timestamp() * 1e6 - 2 <= now_us <= after.timestamp() * 1e6 + 2


def test_no_random_byte_is_given_out_twice() -> None:
    randomness = SystemRandomness()
    drawn = [randomness.bytes(16) for _ in range(2000)]

    assert {len(item) for item in drawn} == {16}
    assert len(set(drawn)) == len(drawn)
    assert len(randomness.bytes(10_000)) == 10_000


def test_what_another_process_is_given_draws_bytes_of_its_own() -> None:
    randomness = SystemRandomness()
    randomness.bytes(1)
    carried = pickle.loads(pickle.dumps(randomness))

    assert carried.bytes(32) != randomness.bytes(32)


def test_a_forked_child_draws_other_bytes_than_its_parent() -> None:
    randomness = SystemRandomness()
    randomness.bytes(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, randomness.bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read(32) != randomness.bytes(32)
