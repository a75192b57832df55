"""Checks a range of a chain in one streaming pass over the stored entries. Pure but for the auditor it reads.

A batch is first checked as a whole, column by column; only where that fails is the first bad row looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from operator import lt
from typing import Any

import msgspec

from precipiq_chain.chain_format import VERSION, Statement, parse_json, parse_statement
from precipiq_chain.erasures import Source, find_erasures
from precipiq_contracts.chain import ADOPTION, GENESIS_HASH, Chain
from precipiq_contracts.entry_store import AuditBatch, EntryAuditor
from precipiq_contracts.ledger import ChainBreak
from precipiq_macs.entry_macs import MacCheck

SEQ_GAP = "SEQ_GAP"
SEQ_REPEATED = "SEQ_REPEATED"
CONTENT_MISMATCH = "CONTENT_MISMATCH"
MALFORMED = "MALFORMED"
WRONG_CHAIN = "WRONG_CHAIN"
POSITION_MISMATCH = "POSITION_MISMATCH"
LINK_BROKEN = "LINK_BROKEN"
TIME_NOT_INCREASING = "TIME_NOT_INCREASING"
PAYLOAD_MISMATCH = "PAYLOAD_MISMATCH"
PAYLOAD_ABSENT = "PAYLOAD_ABSENT"
PAYLOAD_UNEXPECTED = "PAYLOAD_UNEXPECTED"
COLUMN_MISMATCH = "COLUMN_MISMATCH"
UNAUTHENTIC_ENTRY = "UNAUTHENTIC_ENTRY"
FILED_ELSEWHERE = "FILED_ELSEWHERE"
TRUNCATED = "TRUNCATED"
INCONSISTENT_WITH_CHECKPOINT = "INCONSISTENT_WITH_CHECKPOINT"
CHECKPOINT_FORGED = "CHECKPOINT_FORGED"
ORG_MISSING = "ORG_MISSING"

_ID_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Anchor:
    """The entry before the stretch: its seq and hash are taken as given. ``timestamp``: "" when not known."""

    seq: int
    hash: str
    timestamp: str = ""


GENESIS = Anchor(0, GENESIS_HASH)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The result of a pass: entries checked, the last good one, and the break that stopped it."""

    checked_count: int
    last: Anchor
    broken: ChainBreak | None


def anchor_at(auditor: EntryAuditor, chain: Chain, seq: int) -> Anchor | None:
    """The stored entry at that seq as an anchor, unchecked; None when there is none."""
    for batch in auditor.batches(chain, seq - 1, seq, 1):
        timestamp = _fields(batch.statements[0]).get("timestamp")
        return Anchor(seq, batch.hashes[0], timestamp if isinstance(timestamp, str) else "")
    return None


def verify_stretch(
    auditor: EntryAuditor,
    chain: Chain,
    after: Anchor,
    through_seq: int | None,
    *,
    batch_entries: int,
    progress: Callable[[int], None] = lambda _: None,
    macs: MacCheck | None = None,
) -> Stretch:
    """Check the entries with ``after.seq`` < seq <= ``through_seq``; stops at the first break.

    ``progress`` is called with the number of entries checked since its last call. ``macs``: without it, entries need
    not be the sealer's; that is for tests of a store alone.
    """
    source = Source(auditor, chain, macs)
    last, count = after, 0
    for batch in auditor.batches(chain, after.seq, through_seq, batch_entries):
        columns = _whole_batch_holds(source, last, batch)
        if columns is None:
            good, broken = _first_break(source, last, batch)
            return Stretch(count + good.seq - last.seq, good, broken)
        last = columns
        count += len(batch.seqs)
        progress(len(batch.seqs))
    if through_seq is not None and last.seq < through_seq:
        return Stretch(count, last, ChainBreak(last.seq + 1, SEQ_GAP, f"entry {last.seq + 1} is missing"))
    return Stretch(count, last, None)


_NAMES = ("v", "org_id", "environment", "seq", "id", "kind", "timestamp", "actor", "payload_hash", "prev_hash")
_FIELDS = [*((name, Any) for name in _NAMES), ("body", msgspec.Raw)]  # of which nothing is made
_Fields: Any = msgspec.defstruct("_Fields", _FIELDS, forbid_unknown_fields=True, gc=False)
_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_decode = msgspec.json.Decoder(_Fields).decode


def _whole_batch_holds(source: Source, last: Anchor, batch: AuditBatch) -> Anchor | None:
    """The batch's last entry when every check holds for all of it, else None."""
    chain = source.chain
    statements, hashes, payloads = batch.statements, list(batch.hashes), batch.payloads
    seqs = list(range(last.seq + 1, last.seq + 1 + len(statements)))
    if batch.problem is not None or list(batch.seqs) != seqs:
        return None
    if [sha256(statement).hexdigest() for statement in statements] != hashes:
        return None
    try:
        b"\n".join(statements).decode()  # msgspec looks neither at the encoding of a body nor at what no float holds
        fields = list(map(_decode, statements))
        exponents = [b"0e000" in bytes(each.body).translate(_ZEROS, b"+") for each in fields]
        list(map(parse_json, compress(statements, exponents)))
        times = [last.timestamp, *[each.timestamp for each in fields]]
        are_in_time = all(map(lt, times, times[1:]))
        are_of_chain = {(each.org_id, each.environment) for each in fields} == {(chain.org_id, chain.environment)}
    except (msgspec.MsgspecError, ValueError, RecursionError, TypeError):
        return None
    said = [each.payload_hash for each in fields]
    payload_hashes = [None if payload is None else sha256(payload).hexdigest() for payload in payloads]
    if said != payload_hashes and not _are_absences_explained(source, batch, said, payload_hashes):
        return None
    holds = (
        [each.seq for each in fields] == seqs
        and [each.prev_hash for each in fields] == [last.hash, *hashes[:-1]]
        and are_in_time
        and are_of_chain
        and [each.v for each in fields].count(VERSION) == len(fields)
        and _are_authentic(source.macs, batch, times[1:], [each.kind for each in fields])
    )
    return Anchor(seqs[-1], hashes[-1], times[-1]) if holds else None


def _are_authentic(macs: MacCheck | None, batch: AuditBatch, times: Sequence[str], kinds: Sequence[object]) -> bool:
    if macs is None:
        return True
    adoptions = [seq for seq, kind in zip(batch.seqs, kinds, strict=True) if kind == ADOPTION]
    return all(map(macs.allows_adoption, adoptions)) and macs.all_hold(batch.seqs, batch.hashes, times, batch.macs)


def _are_absences_explained(
    source: Source,
    batch: AuditBatch,
    said: Sequence[object],
    payload_hashes: Sequence[str | None],
) -> bool:
    differing = [index for index, (a, b) in enumerate(zip(said, payload_hashes, strict=True)) if a != b]
    if any(payload_hashes[index] is not None for index in differing):
        return False
    erased = find_erasures(source, [batch.seqs[index] for index in differing])
    return all(erased.get(batch.seqs[index]) == (batch.hashes[index], None) for index in differing)


def _first_break(source: Source, last: Anchor, batch: AuditBatch) -> tuple[Anchor, ChainBreak]:
    rows = zip(batch.seqs, batch.hashes, batch.statements, batch.payloads, batch.macs, strict=True)
    for index, (seq, stored_hash, statement, payload, mac) in enumerate(rows):
        problem = batch.problem[1] if batch.problem is not None and batch.problem[0] == index else None
        found = _check_row(source, last, seq, stored_hash, statement, payload, mac, problem)
        if isinstance(found, ChainBreak):
            return last, found
        last = found
    seq = batch.seqs[batch.problem[0]] if batch.problem else last.seq
    return last, ChainBreak(
        seq, COLUMN_MISMATCH, batch.problem[1] if batch.problem else "the batch does not hold together"
    )


def _check_row(
    source: Source,
    last: Anchor,
    seq: int,
    stored_hash: str,
    statement: bytes,
    payload: bytes | None,
    mac: str | None,
    problem: str | None,
) -> Anchor | ChainBreak:
    chain = source.chain
    expected = last.seq + 1
    fields = _fields(statement)
    entry_id = _entry_id(fields)
    if seq < 1:
        return ChainBreak(seq, POSITION_MISMATCH, "a chain begins with entry 1; no entry can stand before it", entry_id)
    if seq <= last.seq:
        return ChainBreak(seq, SEQ_REPEATED, f"entry {seq} stands more than once", entry_id)
    if seq != expected:
        return ChainBreak(
            expected, SEQ_GAP, f"entry {expected} is missing; {problem or f'the next one stored is {seq}'}"
        )
    if sha256(statement).hexdigest() != stored_hash:
        return ChainBreak(seq, CONTENT_MISMATCH, "the statement is not the one that was hashed", entry_id)
    try:
        parsed = _parse(statement)
    except (ValueError, TypeError, RecursionError):
        return ChainBreak(seq, MALFORMED, "the statement is not one of chain version 1", entry_id)
    if (parsed.org_id, parsed.environment) != (chain.org_id, chain.environment):
        return ChainBreak(seq, WRONG_CHAIN, "the statement belongs to another chain", entry_id)
    if parsed.seq != seq:
        return ChainBreak(seq, POSITION_MISMATCH, f"the statement says that it is entry {parsed.seq}", entry_id)
    if parsed.prev_hash != last.hash:
        return ChainBreak(seq, LINK_BROKEN, f"prev_hash is not the hash of entry {last.seq}", entry_id)
    if parsed.timestamp <= last.timestamp:
        return ChainBreak(seq, TIME_NOT_INCREASING, f"the timestamp is not after that of entry {last.seq}", entry_id)
    broken = _check_payload(source, seq, stored_hash, payload, parsed.payload_hash, entry_id)
    if broken is not None:
        return broken
    if problem is not None:
        return ChainBreak(seq, COLUMN_MISMATCH, problem, entry_id)
    if source.macs is not None and not source.macs.holds(seq, stored_hash, parsed.timestamp, mac):
        lacks = "has no MAC" if mac is None else "has a MAC that is not its own"
        return ChainBreak(seq, UNAUTHENTIC_ENTRY, f"no server of this deployment made it: it {lacks}", entry_id)
    if source.macs is not None and parsed.kind == ADOPTION and not source.macs.allows_adoption(seq):
        return ChainBreak(seq, UNAUTHENTIC_ENTRY, "a chain is adopted once, after its last entry of then", entry_id)
    return Anchor(seq, stored_hash, parsed.timestamp)


def _check_payload(
    source: Source,
    seq: int,
    stored_hash: str,
    payload: bytes | None,
    payload_hash: str | None,
    entry_id: str | None,
) -> ChainBreak | None:
    if payload is not None:
        if payload_hash is None:
            return ChainBreak(
                seq, PAYLOAD_UNEXPECTED, "there is a payload where the statement says there is none", entry_id
            )
        if sha256(payload).hexdigest() != payload_hash:
            return ChainBreak(seq, PAYLOAD_MISMATCH, "the payload is not the one that was hashed", entry_id)
    elif payload_hash is not None:
        erased_hash, made_up = find_erasures(source, [seq]).get(seq, ("", None))
        if erased_hash != stored_hash:
            return ChainBreak(seq, PAYLOAD_ABSENT, "the payload is gone and no redaction entry says so", entry_id)
        if made_up is not None:
            reason = f"the payload is gone, and no server of this deployment made its redaction, entry {made_up}"
            return ChainBreak(seq, UNAUTHENTIC_ENTRY, reason, entry_id)
    return None


def _parse(statement: bytes) -> Statement:
    parsed = parse_statement(statement)
    if not isinstance(parsed.timestamp, str):
        raise ValueError("a timestamp is text")
    return parsed


def _fields(statement: bytes) -> dict[str, Any]:
    try:
        fields = parse_json(statement)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _entry_id(fields: dict[str, Any]) -> str | None:
    """The id for the report: an intruder's text must not make the report unbounded or impossible to encode."""
    value = fields.get("id")
    return value if isinstance(value, str) and len(value) <= _ID_CHARACTERS_MAX and value.isascii() else None
