"""The form of a key can be checked offline."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from precipiq_auth_keys.secret_format import base62, is_well_formed, make_key


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["live", "test"]))
def test_a_key_has_its_prefix_43_random_characters_and_their_checksum(randomness: bytes, environment: str) -> None:
    key = make_key(environment, randomness)  # type: ignore[arg-type]

    assert key.startswith(f"pq_{environment}_")
    assert len(key) == 8 + 43 + 6
    assert key[-6:] == base62(crc32(key[:-6].encode()), 6)
    assert is_well_formed(key)


@given(st.binary(min_size=32, max_size=32), st.integers(8, 56), st.sampled_from("aZ09"))
def test_a_mistyped_key_is_known_without_a_database(randomness: bytes, place: int, letter: str) -> None:
    key = make_key("test", randomness)
    mistyped = key[:place] + letter + key[place + 1 :]
    assert is_well_formed(mistyped) == (mistyped == key)


def test_the_placeholder_of_the_sdks_readme_is_no_key() -> None:
    assert not is_well_formed("pq_test_demo_key_REPLACE_ME")
