"""Entries in the shapes of the REST contract: a decision's record, a receipt, a raw entry. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from precipiq_core.canonical import canonical
from precipiq_core.chain_format import (
    parse_statement,
    split_payload,
    statement_id,
    statement_prev_hash,
    statement_timestamp,
)
from precipiq_core.contracts.chain import Entry

DECISION = "decision"

BODY_FIELDS = ("agent_id", "action_type", "confidence", "human_in_loop", "external_id")
PAYLOAD_FIELDS = ("inputs", "outputs", "alternatives", "metadata")

Record = dict[str, Any]


def is_decision(entry: Entry) -> bool:
    """Whether the entry is of the kind ``decision``."""
    return parse_statement(entry.statement).kind == DECISION


def receipt(entry: Entry) -> Record:
    """What the writer of a decision gets back."""
    return {
        "decision_id": statement_id(entry.statement),
        "hash": entry.hash,
        "timestamp": statement_timestamp(entry.statement),
        "seq": entry.seq,
        "prev_hash": statement_prev_hash(entry.statement),
    }


def decision_json(entry: Entry, redaction_id: str | None) -> bytes:
    """A decision with its proof, as JSON. ``redaction_id``: of the entry that erased its payload, if one did.

    Body and payload are members of the record and stand in it byte for byte as they were hashed, so that no number
    changes its form on the way.
    """
    statement = parse_statement(entry.statement)
    salt: str | None = None
    members = _ERASED
    if entry.payload is not None:
        payload, salt = split_payload(entry.payload)
        if _is_object_of(payload, PAYLOAD_FIELDS):
            members = payload[1:-1]
    body = canonical(statement.body)
    rest: Record = {
        "id": statement.id,
        "org_id": statement.org_id,
        "environment": statement.environment,
        "timestamp": statement.timestamp,
        "v": statement.v,
        "seq": statement.seq,
        "actor": statement.actor,
        "salt": salt,
        "payload_hash": statement.payload_hash,
        "prev_hash": statement.prev_hash,
        "hash": entry.hash,
    }
    if entry.payload is None and statement.payload_hash is not None:
        rest["redacted"] = True
        rest["redaction_id"] = redaction_id
    return b"%b,%b,%b}" % (orjson.dumps(rest)[:-1], body[1:-1], members)


_ERASED = b",".join(b'"%b":null' % name.encode() for name in PAYLOAD_FIELDS)


def _is_object_of(text: bytes, names: Sequence[str]) -> bool:
    """Whether the text is a JSON object with exactly these members; what an intruder made of it need not be."""
    try:
        fields = orjson.loads(text)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.keys() == set(names)
