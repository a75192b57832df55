"""Entries in the shapes of the REST contract: a decision's record, a receipt, a raw entry. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precipiq_core.canonical import Json, canonical
from precipiq_core.chain_format import (
    parse_json,
    parse_statement,
    split_payload,
    statement_id,
    statement_prev_hash,
    statement_timestamp,
)
from precipiq_core.contracts.chain import Entry
from precipiq_core.http.envelope import raw_json

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


def raw_entry(entry: Entry) -> Record:
    """The entry as it was hashed, enough to verify without our help."""
    payload, salt = split_payload(entry.payload) if entry.payload is not None else (None, None)
    return {
        "statement": raw_json(entry.statement),
        "hash": entry.hash,
        "payload": None if payload is None else raw_json(payload),
        "salt": salt,
    }


def decision_record(entry: Entry, redaction: Entry | None) -> Record:
    """A decision with its proof. ``redaction``: the entry that erased its payload, if one did."""
    statement = parse_statement(entry.statement)
    payload, salt = split_payload(entry.payload) if entry.payload is not None else (None, None)
    fields = _payload_fields(payload)
    record: Record = {"id": statement.id, "org_id": statement.org_id, "environment": statement.environment}
    record |= {name: _exact(statement.body.get(name)) for name in BODY_FIELDS}
    record |= {name: fields.get(name) for name in PAYLOAD_FIELDS}
    record |= {
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
        record["redacted"] = True
        record["redaction_id"] = None if redaction is None else parse_statement(redaction.statement).id
    return record


def _payload_fields(payload: bytes | None) -> Mapping[str, Any]:
    if payload is None:
        return {}
    fields = parse_json(payload)
    if not isinstance(fields, dict):
        return {}
    return {name: _exact(value) for name, value in fields.items()}


def _exact(value: Json) -> Any:
    """The value so that it is encoded as it is stored, integers beyond 64 bits included."""
    if isinstance(value, dict | list):
        return raw_json(canonical(value, max_depth=1000))
    return value
