"""The verifier that PostgreSQL stores of a password, made here so that no statement and no log holds the password."""

from __future__ import annotations

import stringprep
import unicodedata
from base64 import b64encode
from hashlib import pbkdf2_hmac, sha256
from hmac import digest

_ITERATIONS = 4096
_REFUSED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
"""What SASLprep forbids (RFC 4013, section 2.3), and what Unicode 3.2 had not assigned."""


def scram_verifier(password: str, salt: bytes) -> str:
    """The verifier of SCRAM-SHA-256 (RFC 5803)."""
    salted = pbkdf2_hmac("sha256", _prepare(password).encode(), salt, _ITERATIONS)
    stored = sha256(digest(salted, b"Client Key", "sha256")).digest()
    server = digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def _prepare(password: str) -> str:
    """Apply SASLprep (RFC 4013) as PostgreSQL and its clients do: a text that it refuses stays as it is."""
    if password.isascii():
        return password
    kept = [character for character in password if not stringprep.in_table_b1(character)]
    mapped = "".join(" " if stringprep.in_table_c12(character) else character for character in kept)
    prepared = unicodedata.normalize("NFKC", mapped)
    return password if not prepared or _is_refused(prepared) else prepared


def _is_refused(prepared: str) -> bool:
    if any(is_refused(character) for character in prepared for is_refused in _REFUSED):
        return True
    if not any(map(stringprep.in_table_d1, prepared)):
        return False
    is_mixed = any(map(stringprep.in_table_d2, prepared))
    return is_mixed or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
