"""Which entries an export looks at: the request's bounds as a range of seqs, found without reading the whole chain."""

from __future__ import annotations

from precipiq_chain.chain_format import parse_statement
from precipiq_contracts.chain import Chain
from precipiq_contracts.entry_store import EntryAuditor
from precipiq_exports.jobs import Range, Request


def range_of(auditor: EntryAuditor, chain: Chain, request: Request, last_seq: int) -> Range:
    """The range in a chain that ends with ``last_seq``. Synchronous: reads some dozen entries for a range of times.

    Timestamps increase along a chain, so bisection finds times. Where a damaged entry prevents that, the range
    stays as wide as the seqs allow.
    """
    through = last_seq if request.through_seq is None else min(request.through_seq, last_seq)
    after = min(request.after_seq or 0, through)
    if request.start is not None:
        after = max(after, (_first_at(auditor, chain, request.start, after, through) or after + 1) - 1)
    if request.end is not None:
        through = (_first_at(auditor, chain, request.end, after, through) or through + 1) - 1
    return Range(after, max(after, through))


def _first_at(auditor: EntryAuditor, chain: Chain, timestamp: str, after: int, through: int) -> int | None:
    """The first seq in ``after`` < seq <= ``through`` + 1 not before that time; None when a damaged entry hides it."""
    low, high = after + 1, through + 1
    while low < high:
        middle = (low + high) // 2
        found = _timestamp_at(auditor, chain, middle)
        if found is None:
            return None
        if found < timestamp:
            low = middle + 1
        else:
            high = middle
    return low


def _timestamp_at(auditor: EntryAuditor, chain: Chain, seq: int) -> str | None:
    for batch in auditor.batches(chain, seq - 1, seq, 1):
        try:
            return str(parse_statement(batch.statements[0]).timestamp)
        except (ValueError, TypeError, RecursionError):
            return None
    return None
