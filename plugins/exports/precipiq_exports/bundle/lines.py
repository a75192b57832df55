"""A bundle's lines: raw entries exactly as they were hashed, damaged ones as such, and cells of spreadsheets. Pure."""

from __future__ import annotations

import base64
import re
from typing import Any

import orjson

from precipiq_core.canonical import canonical
from precipiq_core.chain_format import split_payload

_HASH = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""What spreadsheets take for the beginning of a formula, full-width forms included (OWASP, CSV injection)."""


def entry_line(seq: int, stored_hash: str, statement: bytes, payload: bytes | None) -> bytes:
    """A raw entry: hash, payload, salt and statement in this order, the texts exactly as they were hashed."""
    text, salt = b"null", b"null"
    try:
        if payload is not None:
            text, salt_digits = split_payload(payload)
            salt = b'"%b"' % salt_digits.encode()
            if b'{"payload":%b,"salt":%b}' % (text, salt) != payload:
                raise ValueError("not as it was stored")
        if not _HASH.fullmatch(stored_hash) or b"\n" in statement or b"\n" in text:
            raise ValueError("not as it was stored")
        return b'{"hash":"%b","payload":%b,"salt":%b,"statement":%b}\n' % (
            stored_hash.encode(),
            text,
            salt,
            statement,
        )
    except ValueError:  # UnicodeDecodeError is one
        return damaged_line(seq, stored_hash, statement, payload)


def damaged_line(seq: int, stored_hash: str, statement: bytes, payload: bytes | None) -> bytes:
    """What the store holds in place of an entry, so that nothing is hidden; verifiers name it as a failure."""
    fields = {
        "damaged": True,
        "seq": seq,
        "hash": stored_hash,
        "statement_base64": base64.b64encode(statement).decode(),
        "payload_base64": None if payload is None else base64.b64encode(payload).decode(),
    }
    return orjson.dumps(fields) + b"\n"


def cell(value: Any) -> str:
    """A JSON value as a cell that no spreadsheet takes for a formula: an apostrophe goes before what it would."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return canonical(value).decode()  # a number, true, false, or what begins with a bracket
    return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value
