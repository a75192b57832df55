"""Recompute a decision's hash from the ``data`` of its frame. Needs the package ``rfc8785``."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import rfc8785

SHARED = ("v", "org_id", "environment", "seq", "id", "timestamp", "actor", "payload_hash", "prev_hash")
BODY = ("agent_id", "action_type", "confidence", "human_in_loop", "external_id")
PAYLOAD = ("inputs", "outputs", "alternatives", "metadata")


def decision_hash(data: dict[str, Any]) -> str:
    """What ``hash`` must be."""
    statement = {name: data[name] for name in SHARED}
    statement |= {"kind": "decision", "body": {name: data[name] for name in BODY}}
    return sha256(rfc8785.dumps(statement)).hexdigest()


def payload_hash(data: dict[str, Any]) -> str:
    """What ``payload_hash`` must be, unless the payload was erased (``redacted``)."""
    salted = {"payload": {name: data[name] for name in PAYLOAD}, "salt": data["salt"]}
    return sha256(rfc8785.dumps(salted)).hexdigest()
