"""A financial event in the shape of the contract, from its entry. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from precipiq_chain.chain_format import parse_statement, split_payload
from precipiq_contracts.chain import Entry

_METADATA_HEAD = len(b'{"metadata":')


def stored_metadata(entry: Entry) -> bytes | None:
    """The event's metadata as canonical JSON; None when they were erased."""
    return None if entry.payload is None else split_payload(entry.payload)[0][_METADATA_HEAD:-1]


def financial_event_record(entry: Entry, redaction_id: str | None) -> dict[str, Any]:
    """The event with its proof. ``timestamp``: when the money moved; ``created_at``: when the entry was sealed."""
    statement = parse_statement(entry.statement)
    body = statement.body
    metadata, salt = None, None
    if entry.payload is not None:
        payload, salt = split_payload(entry.payload)
        metadata = orjson.Fragment(payload[_METADATA_HEAD:-1])
    record: dict[str, Any] = {
        "id": statement.id,
        "org_id": statement.org_id,
        "environment": statement.environment,
        "source": body.get("source"),
        "event_type": body.get("event_type"),
        "amount": body.get("amount"),
        "currency": body.get("currency"),
        "external_id": body.get("external_id"),
        "timestamp": body.get("occurred_at") or statement.timestamp,
        "created_at": statement.timestamp,
        "metadata": metadata,
        "object_id": body.get("object_id"),
        "related_id": body.get("related_id"),
        "cause": body.get("cause"),
        "livemode": body.get("livemode"),
        "v": statement.v,
        "seq": statement.seq,
        "actor": statement.actor,
        "salt": salt,
        "payload_hash": statement.payload_hash,
        "prev_hash": statement.prev_hash,
        "hash": entry.hash,
    }
    if entry.payload is None and statement.payload_hash is not None:
        record |= {"redacted": True, "redaction_id": redaction_id}
    return record
