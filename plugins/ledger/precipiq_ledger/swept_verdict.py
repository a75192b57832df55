"""The verdict of the sweep on a chain, from what is on record of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from precipiq_chain.verify import GENESIS
from precipiq_contracts.clock import format_timestamp
from precipiq_contracts.ledger import ChainBreak, ChainVerdict, CheckpointComparison
from precipiq_ledger.anchors import Compared
from precipiq_ledger.grading import CHECKED_ZERO, SWEEP_STALE, grade
from precipiq_ledger.sweep_book import Swept

_NOT_COMPARED = Compared(CheckpointComparison(0, 0, None, None), ())


def verdict_of(swept: Swept | None, *, is_stale: bool) -> ChainVerdict:
    """``swept``: None for a chain that the sweep does not know. ``is_stale``: not checked whole within the set time."""
    last = None if swept is None else swept.last
    compared = _NOT_COMPARED if swept is None or last is None else swept.compared or _NOT_COMPARED
    broken = None if swept is None else swept.broken
    tail = GENESIS if swept is None else swept.tail
    findings = [broken] if broken is not None else list(_findings(swept, compared, is_stale=is_stale))
    newest_seq = compared.comparison.newest_seq
    return ChainVerdict(
        grade(findings, newest_seq),
        0 if last is None else last.checked_count,
        broken,
        tail.seq,
        tail.hash,
        1,
        compared.comparison,
        tuple(_unchecked(swept, compared)),
        tuple(findings),
        0 if swept is None else swept.exempt_through,
    )


def _findings(swept: Swept | None, compared: Compared, *, is_stale: bool) -> Iterator[ChainBreak]:
    if swept is None or swept.last is None:
        yield ChainBreak(1, CHECKED_ZERO, "the sweep has not checked the whole chain yet")
    elif is_stale:
        ended = format_timestamp(swept.last.ended_us)
        yield ChainBreak(1, SWEEP_STALE, f"the chain was last checked whole at {ended}: not within the set time")
    yield from compared.comparison.findings


def _unchecked(swept: Swept | None, compared: Compared) -> Iterator[str]:
    if swept is None or swept.last is None:
        yield "the whole chain"
        return
    if swept.broken is not None:
        yield f"whatever comes after entry {swept.broken.seq}"
        return
    last, ended = swept.last, format_timestamp(swept.last.ended_us)
    yield f"whether entries up to {last.seq} were altered since {ended}, when they were last checked"
    yield f"the checkpoints that were written since {ended}, and entries after {swept.tail.seq}"
    if swept.exempt_through:
        yield "whether servers of this deployment made the entries that have no MAC"
    if swept.compared is None:
        yield "the checkpoints: the last pass was one of an older version"
    yield from compared.unchecked
