"""An entry as the interface shows it when nothing else is agreed: the bytes that were hashed, as JSON."""

from __future__ import annotations

from typing import Any

from precipiq_chain.chain_format import split_payload
from precipiq_contracts.chain import Entry
from precipiq_core.http.envelope import raw_json


def raw_entry(entry: Entry) -> dict[str, Any]:
    """The entry as it was hashed, enough to verify without our help."""
    payload, salt = split_payload(entry.payload) if entry.payload is not None else (None, None)
    return {
        "statement": raw_json(entry.statement),
        "hash": entry.hash,
        "payload": None if payload is None else raw_json(payload),
        "salt": salt,
    }
