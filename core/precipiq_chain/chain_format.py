"""The chain, version 1, to the byte: how drafts become entries and what an entry's bytes say (DESIGN section 4).

Pure functions. Knows no store, no clock and no policy: the ledger plugin decides which drafts may be appended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, cast

import orjson

from precipiq_chain.canonical import Json, canonical
from precipiq_contracts.chain import GENESIS_HASH, Chain, Draft, Entry, Environment, Head, PreparedDraft
from precipiq_contracts.clock import format_timestamp, parse_timestamp, uuid7

VERSION = 1
SALT_BYTES = 16
ID_RANDOM_BYTES = 10

STATEMENT_KEYS = frozenset(
    ("v", "org_id", "environment", "seq", "id", "kind", "timestamp", "actor", "body", "payload_hash", "prev_hash")
)

_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_POSITIVE = b"0" * 20  # orjson makes integers beyond 64 bits floats
_LONG_NEGATIVE = b"-" + b"0" * 19
_SALT_TAIL = len(',"salt":""}') + 2 * SALT_BYTES
_PAYLOAD_HEAD = len('{"payload":')
_STRING = rb'"(?:[^"\\]|\\.)*"'
_PARTS = re.compile(
    rb'\{"actor":(' + _STRING + rb'),"body":(\{.*\}),"environment":"(live|test)","id":"([0-9a-f-]{36})",'
    rb'"kind":"([a-z][a-z0-9_]*)","org_id":(' + _STRING + rb'),"payload_hash":(null|"[0-9a-f]{64}"),'
    rb'"prev_hash":"([0-9a-f]{64})","seq":([0-9]{1,19}),"timestamp":"([0-9T:.-]{26}Z)","v":1\}',
    re.DOTALL,
)
_TIMESTAMP = slice(-35, -8)  # a canonical statement ends with "timestamp":"<27 characters>","v":1}


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement. ``timestamp``: ``YYYY-MM-DDTHH:MM:SS.ffffffZ``; hashes: 64 hex digits."""

    v: int
    org_id: str
    environment: Environment
    seq: int
    id: str
    kind: str
    timestamp: str
    actor: str
    body: dict[str, Json]
    payload_hash: str | None
    prev_hash: str


def prepare(draft: Draft, salt: bytes, *, max_depth: int = 64) -> PreparedDraft:
    """Make body and payload canonical and hash the payload with its salt (16 bytes).

    Raises ``NotCanonical`` when a value has no canonical form.
    """
    body = canonical(cast("Json", draft.body), max_depth=max_depth)
    if draft.payload is None:
        return PreparedDraft(draft, body, None, None)
    inner = canonical(cast("Json", draft.payload), max_depth=max_depth)
    payload = b'{"payload":%b,"salt":"%b"}' % (inner, salt.hex().encode())
    return PreparedDraft(draft, body, payload, sha256(payload).hexdigest())


def seal_entries(
    chain: Chain,
    head: Head | None,
    drafts: Sequence[PreparedDraft],
    *,
    now_us: int,
    randomness: bytes,
    mac: Callable[[int, str], str] | None = None,
) -> list[Entry]:
    """Seal drafts after ``head``, in order.

    ``now_us``: microseconds since the epoch; timestamps are moved forward as needed to increase strictly.
    ``randomness``: 10 bytes per draft, for the ids. ``mac``: gives an entry's MAC from its time and hash.
    """
    seq, prev_hash, last_us = (head.seq, head.hash, head.timestamp_us) if head else (0, GENESIS_HASH, -1)
    org_id, environment = canonical(chain.org_id).decode(), canonical(chain.environment).decode()
    entries: list[Entry] = []
    for index, prepared in enumerate(drafts):
        seq += 1
        last_us = max(now_us, last_us + 1)
        payload_hash = "null" if prepared.payload_hash is None else f'"{prepared.payload_hash}"'
        entry_id = uuid7(last_us, randomness[index * ID_RANDOM_BYTES : (index + 1) * ID_RANDOM_BYTES])
        draft = prepared.draft
        statement = b'{"actor":%b,"body":%b,%b}' % (
            canonical(draft.actor),
            prepared.body,
            (
                f'"environment":{environment},"id":"{entry_id}","kind":"{draft.kind}","org_id":{org_id},'
                f'"payload_hash":{payload_hash},"prev_hash":"{prev_hash}","seq":{seq},'
                f'"timestamp":"{format_timestamp(last_us)}","v":{VERSION}'
            ).encode(),
        )
        prev_hash = sha256(statement).hexdigest()
        sealed = None if mac is None else mac(last_us, prev_hash)
        entries.append(Entry(chain, seq, prev_hash, statement, prepared.payload, draft.idempotency_key, sealed))
    return entries


def parse_json(text: bytes) -> Json:
    """Parse canonical JSON, keeping every digit of integers beyond 64 bits."""
    zeroed = text.translate(_ZEROS)
    if _LONG_POSITIVE in zeroed or _LONG_NEGATIVE in zeroed:
        return cast("Json", json.loads(text))
    return cast("Json", orjson.loads(text))


def parse_statement(statement: bytes) -> Statement:
    """Raises ``ValueError`` when the bytes are not a statement of version 1."""
    fields = parse_json(statement)
    if not isinstance(fields, dict) or fields.keys() != STATEMENT_KEYS or fields["v"] != VERSION:
        raise ValueError("not a statement of chain version 1")
    return Statement(**fields)  # type: ignore[arg-type]


class StatementParts(NamedTuple):
    """A canonical statement cut into its values, byte for byte; ``actor`` and ``org_id`` with their quotes.

    ``payload_hash``: with its quotes, or ``null``. ``body``: in braces; whether it is JSON is not checked.
    """

    actor: bytes
    body: bytes
    environment: bytes
    id: bytes
    kind: bytes
    org_id: bytes
    payload_hash: bytes
    prev_hash: bytes
    seq: bytes
    timestamp: bytes


def statement_parts(statement: bytes) -> StatementParts | None:
    """The parts, without parsing the body; None when the bytes are not a canonical statement of version 1."""
    match = _PARTS.fullmatch(statement)
    return None if match is None else StatementParts(*match.groups())


def statement_timestamp(statement: bytes) -> str:
    """The timestamp in a statement that this module sealed, without parsing the rest."""
    return statement[_TIMESTAMP].decode()


def statement_id(statement: bytes) -> str:
    """The id in a canonical statement. The fields after it (kind, org_id) hold no unescaped quote: it is the last."""
    start = statement.rindex(b',"id":"') + 7
    return statement[start : start + 36].decode()


def statement_prev_hash(statement: bytes) -> str:
    """The hash of the entry before, in a canonical statement."""
    start = statement.rindex(b',"prev_hash":"') + 14
    return statement[start : start + 64].decode()


def statement_kind(statement: bytes) -> str:
    """The kind, without parsing a canonical statement. Raises ``ValueError`` when the bytes are no statement."""
    start = statement.rfind(b',"kind":"') + 9
    if start < 9:
        return parse_statement(statement).kind
    return statement[start : statement.index(b'"', start)].decode()


def head_of(entry: Entry) -> Head:
    """That entry as the head of its chain."""
    return Head(entry.seq, entry.hash, parse_timestamp(statement_timestamp(entry.statement)))


def split_payload(payload: bytes) -> tuple[bytes, str]:
    """The canonical payload and its salt (32 hex digits) from the stored text that was hashed."""
    return payload[_PAYLOAD_HEAD:-_SALT_TAIL], payload[-34:-2].decode()


def salted_payload_hash(payload: bytes, salt: str) -> str:
    """The payload hash of canonical payload bytes under that salt."""
    return sha256(b'{"payload":%b,"salt":"%b"}' % (payload, salt.encode())).hexdigest()
