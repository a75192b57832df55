"""An intruder who knows the format and forges entries with right hashes, links and times, by SQL alone."""

from __future__ import annotations

from collections.abc import Mapping
from os import urandom
from typing import Any

from precipiq_chain.chain_format import head_of, prepare, seal_entries
from precipiq_chain.grouping import idempotency_check
from precipiq_contracts.chain import Draft, Entry, Head
from precipiq_contracts.clock import parse_timestamp
from precipiq_macs.entry_macs import entry_mac, epoch_key, epoch_of
from precipiq_postgres.entries.columns import indexed_columns
from tests.ledger.intruders import Intruder

SECOND_US = 1_000_000
DECISION = {"agent_id": "forger", "action_type": "pay", "confidence": 1, "human_in_loop": True, "external_id": None}
BESIDE = ("id", "kind", "agent_id", "action_type", "redacts_seq")
"""What PostgreSQL's table holds beside a statement."""


def forged_mac(root: bytes, timestamp: str, entry_hash: str) -> str:
    """The MAC of a forger who has the root of the keys."""
    return entry_mac(epoch_key(root, epoch_of(parse_timestamp(timestamp))), entry_hash)


def head(intruder: Intruder) -> Head | None:
    """The chain's last entry, as the forger reads it."""
    seqs = intruder.seqs()
    if not seqs:
        return None
    statement, hash_ = intruder.get(seqs[-1], "statement", "hash")
    return head_of(Entry(intruder.chain, seqs[-1], hash_, statement, None))


def append(
    intruder: Intruder,
    kind: str = "decision",
    body: Mapping[str, object] = DECISION,
    *,
    payload: Mapping[str, object] | None = None,
    mac: str | None = None,
    after_us: int = SECOND_US,
    key: str | None = None,
) -> Entry:
    """Another entry after the chain's last one, whose every hash is right. ``after_us``: later than that one."""
    last = head(intruder)
    draft = prepare(Draft(kind, "key_forged", body, payload, key), urandom(16))
    now_us = after_us + (1_700_000_000 * SECOND_US if last is None else last.timestamp_us)
    [entry] = seal_entries(intruder.chain, last, [draft], now_us=now_us, randomness=urandom(10))
    insert(intruder, entry, mac)
    return entry


def insert(intruder: Intruder, entry: Entry, mac: str | None) -> None:
    """The row of that entry."""
    values: dict[str, Any] = dict(zip(BESIDE, indexed_columns(entry.statement), strict=True))
    values |= {
        "org_id": entry.chain.org_id,
        "environment": entry.chain.environment,
        "seq": entry.seq,
        "statement": entry.statement,
        "payload": entry.payload,
        "hash": entry.hash,
        "idempotency_key": None if entry.idempotency_key is None else entry.idempotency_key.encode(),
        "idempotency_check": entry.idempotency_key and idempotency_check(entry.idempotency_key, entry.hash),
        "mac": mac,
    }
    intruder.insert(values)


def erase(intruder: Intruder, seq: int) -> Entry:
    """A payload is gone, behind a redaction that nobody asked for; the made-up entry."""
    statement_id, target_hash = indexed_columns(bytes(intruder.get(seq, "statement")[0]))[0], intruder.get(seq, "hash")
    body = {"target_seq": seq, "target_id": statement_id, "target_hash": target_hash[0], "reason": "asked for"}
    redaction = append(intruder, "redaction", body)
    intruder.set(seq, payload=None)
    return redaction
