"""Rotations of signing keys: one of a chain at a time, so many an hour, refused before anything is made."""

from __future__ import annotations

import pytest

from precipiq_contracts.chain import Chain
from precipiq_contracts.errors import RateLimited
from precipiq_exports.rotation_limit import RotationLimit
from precipiq_testkit.clock import ManualClock

CHAIN, TEST, OTHER = Chain("org_a", "live"), Chain("org_a", "test"), Chain("org_b", "live")


def rotate(limit: RotationLimit, chain: Chain = CHAIN) -> None:
    with limit.admit(chain):
        pass


def test_one_rotation_of_a_chain_runs_at_a_time() -> None:
    limit = RotationLimit(ManualClock(), 2)
    with limit.admit(CHAIN):
        for _ in range(5):
            with pytest.raises(RateLimited, match="already"):
                rotate(limit)
        rotate(limit, TEST)
        rotate(limit, OTHER)
    rotate(limit)


def test_rotations_of_an_hour_are_bounded_and_failed_ones_count() -> None:
    clock = ManualClock()
    limit = RotationLimit(clock, 2)
    with pytest.raises(KeyError), limit.admit(CHAIN):
        raise KeyError
    clock.advance(600)
    rotate(limit)
    with pytest.raises(RateLimited, match="2 times in an hour") as refused:
        rotate(limit)
    assert refused.value.retry_after_s == 3000
    rotate(limit, TEST)
    clock.advance(3000)
    rotate(limit)
