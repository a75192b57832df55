"""Entries in the shapes of the REST contract: a decision's record, a receipt, a raw entry, a verdict. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from precipiq_chain.chain_format import statement_id, statement_kind, statement_prev_hash, statement_timestamp
from precipiq_chain.entry_record import RecordFields, entry_record_json
from precipiq_contracts.chain import Entry
from precipiq_contracts.ledger import ChainBreak, ChainVerdict
from precipiq_ledger.grading import COULD_NOT_CHECK, grade_record, newest_age_s

DECISION = "decision"

BODY_FIELDS = ("agent_id", "action_type", "confidence", "human_in_loop", "external_id")
PAYLOAD_FIELDS = ("inputs", "outputs", "alternatives", "metadata")

_FIELDS = RecordFields(BODY_FIELDS, PAYLOAD_FIELDS)

Record = dict[str, Any]


def is_decision(entry: Entry) -> bool:
    """Whether the entry is of the kind ``decision``."""
    return statement_kind(entry.statement) == DECISION


def receipt(entry: Entry) -> Record:
    """The receipt of a decision."""
    return {
        "decision_id": statement_id(entry.statement),
        "hash": entry.hash,
        "timestamp": statement_timestamp(entry.statement),
        "seq": entry.seq,
        "prev_hash": statement_prev_hash(entry.statement),
    }


def decision_json(entry: Entry, redaction_id: str | None) -> bytes:
    """A decision with its proof, as JSON. ``redaction_id``: of the entry that erased its payload, if one did.

    The record holds body and payload byte for byte as they were hashed, so that no number
    changes its form on the way.
    """
    return entry_record_json(entry, _FIELDS, redaction_id)


def break_record(broken: ChainBreak) -> Record:
    """The first fault of a chain."""
    return asdict(broken)


def verdict_record(verdict: ChainVerdict, now_us: int) -> Record:
    """A verdict in the contract's shape. ``checkpoints`` and ``unchecked`` are older names for parts of its grade."""
    broken, checkpoints = verdict.broken, verdict.checkpoints
    cause = verdict.findings[0] if verdict.verdict == COULD_NOT_CHECK else broken
    return {
        "is_valid": verdict.is_valid,
        "records_checked": verdict.checked_count,
        "first_broken_link": None if broken is None else break_record(broken),
        "reason": None if cause is None else cause.reason,
        "head": {"seq": verdict.head_seq, "hash": verdict.head_hash},
        "from_seq": verdict.from_seq,
        "checkpoints": {
            "compared": checkpoints.compared_count,
            "signatures_checked": checkpoints.signatures_checked_count,
            "newest_seq": checkpoints.newest_seq,
            "newest_time": checkpoints.newest_time,
            "newest_age_s": newest_age_s(checkpoints, now_us),
            "findings": [asdict(finding) for finding in checkpoints.findings],
        },
        "unchecked": list(verdict.unchecked),
        **grade_record(verdict, now_us),
    }
