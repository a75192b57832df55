"""An entry as a flat record: its proof, then the members of body and payload exactly as they were hashed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from precipiq_core.canonical import canonical
from precipiq_core.chain_format import StatementParts, parse_statement, split_payload, statement_parts
from precipiq_core.contracts.chain import Entry

PROOF_FIELDS = (
    "id",
    "org_id",
    "environment",
    "timestamp",
    "v",
    "seq",
    "actor",
    "salt",
    "payload_hash",
    "prev_hash",
    "hash",
)

_PROOF = (
    b'"id":"%b","org_id":%b,"environment":"%b","timestamp":"%b","v":1,"seq":%b,"actor":%b,'
    b'"salt":%b,"payload_hash":%b,"prev_hash":"%b","hash":"%b"'
)


def entry_record_json(
    entry: Entry, payload_fields: Sequence[str], redaction_id: str | None = None, *, with_kind: bool = False
) -> bytes:
    """The record as JSON. ``redaction_id``: of the entry that erased its payload, if one did.

    An erased record has ``redacted`` and ``redaction_id``, its ``payload_fields`` are null. ``with_kind``: for lists
    of several kinds. Raises ``ValueError`` when the statement is none.
    """
    parts = statement_parts(entry.statement) or _parsed(entry.statement)
    salt, members = b"null", b""
    if entry.payload is not None:
        payload, digits = split_payload(entry.payload)
        salt = b'"%b"' % digits.encode()
        members = payload[1:-1] if _is_object_of(payload, payload_fields) else _nulls(payload_fields)
    elif payload_fields:
        members = _nulls(payload_fields)
    proof = _PROOF % (
        parts.id,
        parts.org_id,
        parts.environment,
        parts.timestamp,
        parts.seq,
        parts.actor,
        salt,
        parts.payload_hash,
        parts.prev_hash,
        entry.hash.encode(),
    )
    if with_kind:
        proof += b',"kind":"%b"' % parts.kind
    if entry.payload is None and parts.payload_hash != b"null":
        proof += b',"redacted":true,"redaction_id":%b' % orjson.dumps(redaction_id)
    return b"{%b}" % b",".join(part for part in (proof, parts.body[1:-1], members) if part)


def _parsed(statement: bytes) -> StatementParts:
    """The parts of a statement that is not as it was sealed: it is shown nevertheless, and fails its checks."""
    parsed = parse_statement(statement)
    return StatementParts(
        canonical(parsed.actor),
        canonical(parsed.body),
        str(parsed.environment).encode(),
        str(parsed.id).encode(),
        str(parsed.kind).encode(),
        canonical(parsed.org_id),
        canonical(parsed.payload_hash),
        str(parsed.prev_hash).encode(),
        canonical(parsed.seq),
        str(parsed.timestamp).encode(),
    )


def _nulls(names: Sequence[str]) -> bytes:
    return b",".join([b'"%b":null' % name.encode() for name in names])


def _is_object_of(text: bytes, names: Sequence[str]) -> bool:
    """Whether the text is a JSON object with exactly these members; what an intruder made of it need not be."""
    try:
        fields = orjson.loads(text)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.keys() == set(names)
