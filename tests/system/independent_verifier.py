"""A verifier of raw entries, written from docs/chain-format.md alone: standard library and the rfc8785 package."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import rfc8785

BEYOND = 2**53 - 1


def canonical(value: Any) -> bytes:
    """RFC 8785, but integers beyond ±(2^53-1) keep all their digits: the package never sees them."""
    kept: dict[str, str] = {}

    def without_big(node: Any) -> Any:
        if isinstance(node, int) and not isinstance(node, bool) and abs(node) > BEYOND:
            mark = f"\u0001{len(kept)}\u0001"
            kept[json.dumps(mark)] = str(node)
            return mark
        if isinstance(node, dict):
            return {key: without_big(inner) for key, inner in node.items()}
        return [without_big(inner) for inner in node] if isinstance(node, list) else node

    text = rfc8785.dumps(without_big(value)).decode()
    for mark, digits in kept.items():
        text = text.replace(mark, digits)
    return text.encode()


def verify(entries: list[dict[str, Any]]) -> str | None:
    """None when the chain holds, else what is wrong with it first."""
    prev_hash, prev_time = "0" * 64, ""
    erased = {
        entry["statement"]["body"]["target_seq"]: entry["statement"]["body"]["target_hash"]
        for entry in entries
        if entry["statement"]["kind"] == "redaction"
    }
    for seq, entry in enumerate(entries, start=1):
        statement = entry["statement"]
        if statement["seq"] != seq:
            return f"entry {seq}: is numbered {statement['seq']}"
        if statement["prev_hash"] != prev_hash:
            return f"entry {seq}: link"
        if statement["timestamp"] <= prev_time:
            return f"entry {seq}: time"
        if sha256(canonical(statement)).hexdigest() != entry["hash"]:
            return f"entry {seq}: hash"
        if entry["payload"] is not None:
            salted = {"payload": entry["payload"], "salt": entry["salt"]}
            if sha256(canonical(salted)).hexdigest() != statement["payload_hash"]:
                return f"entry {seq}: payload"
        elif statement["payload_hash"] is not None and erased.get(seq) != entry["hash"]:
            return f"entry {seq}: payload is gone"
        prev_hash, prev_time = entry["hash"], statement["timestamp"]
    return None
