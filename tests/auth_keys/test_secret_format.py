"""The form of a key: what a scanner can tell offline, without a database."""

from __future__ import annotations

import re
from hashlib import sha256
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from precipiq_auth_keys.secret_format import base62, is_well_formed, key_hash, make_key

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

environments = st.sampled_from(["live", "test"])
randomness = st.binary(min_size=32, max_size=32)


def number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 62 + ALPHABET.index(digit)
    return value


@given(environments, randomness)
def test_a_key_is_its_prefix_its_random_bytes_and_their_crc_32(environment: str, drawn: bytes) -> None:
    key = make_key(environment, drawn)

    assert re.fullmatch(r"pq_(live|test)_[0-9A-Za-z]{49}", key)
    assert key.startswith(f"pq_{environment}_")
    assert number(key[8:51]).to_bytes(32, "big") == drawn
    assert number(key[51:]) == crc32(key[:51].encode())
    assert is_well_formed(key)


@given(environments, randomness, st.integers(0, 56), st.sampled_from(ALPHABET))
def test_one_changed_character_is_noticed_offline(environment: str, drawn: bytes, at: int, other: str) -> None:
    key = make_key(environment, drawn)
    changed = key[:at] + other + key[at + 1 :]

    assert is_well_formed(changed) == (changed == key)


@given(st.text(max_size=80))
def test_nothing_but_a_key_is_well_formed(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize("extremes", [bytes(32), b"\xff" * 32])
def test_the_smallest_and_the_largest_key_have_the_same_length(extremes: bytes) -> None:
    assert len(make_key("test", extremes)) == len("pq_test_") + 43 + 6


@pytest.mark.parametrize(
    "text",
    ["", "pq_test_demo_key_REPLACE_ME", "pq_test_", "pq_live_" + "0" * 49, "pq_prod_" + "0" * 49],
)
def test_a_placeholder_is_refused_offline(text: str) -> None:
    assert not is_well_formed(text)


def test_white_space_and_look_alike_digits_do_not_pass() -> None:
    key = make_key("test", bytes(range(32)))

    for changed in (key + "\n", " " + key, key + "0", key[:-1], key.upper(), key[:-1] + "\u0661"):
        assert not is_well_formed(changed), ascii(changed)


def test_only_the_sha_256_of_a_key_is_kept() -> None:
    key = make_key("live", bytes(32))

    assert key_hash(key) == sha256(key.encode()).hexdigest()


def test_base62_counts_from_zero_with_the_most_significant_digit_first() -> None:
    assert [base62(value, 2) for value in (0, 9, 10, 35, 36, 61, 62)] == ["00", "09", "0A", "0Z", "0a", "0z", "10"]
