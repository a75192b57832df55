"""The form of an API key: ``pq_test_`` or ``pq_live_``, 32 random bytes as 43 Base62 characters, 6 of CRC-32.

With the checksum a program tells a real key from a typing error or a placeholder, without a database read.
"""

from __future__ import annotations

import re
from hashlib import sha256
from zlib import crc32

from precipiq_contracts.chain import Environment

RANDOM_BYTES = 32

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(r"(pq_(?:live|test)_[0-9A-Za-z]{43})([0-9A-Za-z]{6})")


def base62(number: int, width: int) -> str:
    """``number`` in Base62, most significant digit first, filled up with zeros to ``width`` characters."""
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits)).rjust(width, "0")


def make_key(environment: Environment, randomness: bytes) -> str:
    """A key for that environment; ``randomness`` is 32 bytes."""
    stem = f"pq_{environment}_{base62(int.from_bytes(randomness, 'big'), 43)}"
    return stem + _checksum(stem)


def is_well_formed(key: str) -> bool:
    """Whether the form and the checksum are right, not whether such a key exists."""
    match = _FORM.fullmatch(key)
    return match is not None and _checksum(match[1]) == match[2]


def key_hash(key: str) -> str:
    """The stored form of a key: its SHA-256 in hex, which suffices for keys of 256 random bits."""
    return sha256(key.encode()).hexdigest()


def _checksum(stem: str) -> str:
    return base62(crc32(stem.encode()), 6)
