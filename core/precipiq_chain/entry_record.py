"""Entries as clients get them: raw, or as a flat record: the proof, then the members of body and payload. Pure.

Both hold the hashed bytes unchanged. The REST interface shows decisions as records, and exports list entries so.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, cast

import orjson

from precipiq_chain.canonical import Json, canonical
from precipiq_chain.chain_format import StatementParts, parse_json, parse_statement, split_payload, statement_parts
from precipiq_contracts.chain import Entry

PROOF_FIELDS = (
    "id",
    "org_id",
    "environment",
    "kind",
    "timestamp",
    "v",
    "seq",
    "actor",
    "salt",
    "payload_hash",
    "prev_hash",
    "hash",
    "redacted",
    "redaction_id",
)
"""The fields of a record about the entry itself, in this order; the last two only if its payload was erased."""

_TAKEN = frozenset(PROOF_FIELDS)
_PROOF = (
    b'"id":"%b","org_id":%b,"environment":"%b",%b"timestamp":"%b","v":1,"seq":%b,"actor":%b,'
    b'"salt":%b,"payload_hash":%b,"prev_hash":"%b","hash":"%b"%b'
)


@dataclass(frozen=True, slots=True)
class RecordFields:
    """The members that every record has, null where an entry lacks them.

    ``shows_kind``: the record has the entry's kind, for lists that hold several.
    """

    body_fields: tuple[str, ...]
    payload_fields: tuple[str, ...]
    shows_kind: bool = False


def entry_record_json(
    entry: Entry, fields: RecordFields, redaction_id: str | None = None, parts: StatementParts | None = None
) -> bytes:
    """The record as JSON. ``redaction_id``: of the entry that erased its payload, if one did.

    ``parts``: of the entry's statement, where they are known. A member of body or payload whose name is already used
    is called ``body.<name>`` or ``payload.<name>``. Raises ``ValueError`` when the statement is none.
    """
    parts = parts or parts_of(entry.statement)
    salt, payload, erasure = b"null", b"{}", b""
    if entry.payload is not None:
        payload, digits = split_payload(entry.payload)
        salt = b'"%b"' % digits.encode()
    elif parts.payload_hash != b"null":
        erasure = b',"redacted":true,"redaction_id":%b' % orjson.dumps(redaction_id)
    proof = _PROOF % (
        parts.id,
        parts.org_id,
        parts.environment,
        b'"kind":"%b",' % parts.kind if fields.shows_kind else b"",
        parts.timestamp,
        parts.seq,
        parts.actor,
        salt,
        parts.payload_hash,
        parts.prev_hash,
        entry.hash.encode(),
        erasure,
    )
    body = _names(parts.body)
    taken = (_TAKEN, frozenset(fields.body_fields), body)
    members = [
        *_members(parts.body, body, fields.body_fields, taken[:1], "body"),
        *_members(payload, _names(payload), fields.payload_fields, taken, "payload"),
    ]
    return b"{%b}" % b",".join([proof, *members])


def raw_entry(entry: Entry) -> dict[str, Any]:
    """The entry as it was hashed, enough to verify without our help; for ``orjson.dumps``."""
    payload, salt = split_payload(entry.payload) if entry.payload is not None else (None, None)
    return {
        "statement": orjson.Fragment(entry.statement),
        "hash": entry.hash,
        "payload": None if payload is None else orjson.Fragment(payload),
        "salt": salt,
    }


def parts_of(statement: bytes) -> StatementParts:
    """The parts; a statement that is not canonical is parsed: clients still get it, and it fails verification."""
    parts = statement_parts(statement)
    if parts is not None:
        return parts
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


def _members(
    text: bytes, names: Set[str], fields: tuple[str, ...], taken: tuple[Set[str], ...], part: str
) -> list[bytes]:
    """Pieces of JSON that hold the members of that text, whose names these are; null for each field that it lacks."""
    if all(each.isdisjoint(names) for each in taken):
        pieces = [text[1:-1]] if names else []
    else:
        values = cast("dict[str, Json]", parse_json(text))
        pieces = [b"%b:%b" % (_name(name, taken, part), canonical(value)) for name, value in values.items()]
    return pieces + [b"%b:null" % _name(name, taken, part) for name in fields if name not in names]


def _name(name: str, taken: tuple[Set[str], ...], part: str) -> bytes:
    return canonical(f"{part}.{name}" if any(name in names for names in taken) else name)


def _names(text: bytes) -> Set[str]:
    """Names of the object's members; none when an intruder has replaced the object with another value."""
    try:
        value = parse_json(text)
    except ValueError:
        return frozenset()
    return value.keys() if isinstance(value, dict) else frozenset()
