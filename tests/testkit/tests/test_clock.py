"""The clock and the random source move only when told to."""

from __future__ import annotations

import pytest

from precipiq_testkit.clock import ManualClock, SeededRandomness


def test_the_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(1_000)
    assert (clock.now_us(), clock.monotonic_s()) == (1_000, 0.0)
    clock.advance(1.5, us=1)
    assert (clock.now_us(), clock.monotonic_s()) == (1_501_001, 1.500001)


def test_the_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        ManualClock().advance(-1)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    first, same, other = SeededRandomness(7), SeededRandomness(7), SeededRandomness(8)
    drawn = [first.bytes(count) for count in (16, 10, 10)]
    assert [len(item) for item in drawn] == [16, 10, 10]
    assert drawn == [same.bytes(count) for count in (16, 10, 10)]
    assert drawn[1] != drawn[2]
    assert other.bytes(16) != drawn[0]
