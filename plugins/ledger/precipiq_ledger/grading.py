"""What a verdict is worth: its word, its anchors and their age, and what a thief could still do unseen. Pure.

Threat levels, each with the powers of those before. ``T1`` writes the database. ``T2`` writes the disk of this machine
too, the files of checkpoints included. ``T3`` reads this deployment's keys, or runs code as its server. This module
knows what holds against each (see "What is not" in SECURITY.md); what was checked, it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from precipiq_contracts.clock import parse_timestamp
from precipiq_contracts.ledger import ChainBreak, ChainVerdict, CheckpointComparison
from precipiq_macs.entry_macs import ALL

Verdict: TypeAlias = Literal["checkpointed", "unanchored", "could_not_check", "failed"]

CHECKPOINTED: Verdict = "checkpointed"
UNANCHORED: Verdict = "unanchored"
COULD_NOT_CHECK: Verdict = "could_not_check"
FAILED: Verdict = "failed"
WORST_FIRST: tuple[Verdict, ...] = (FAILED, COULD_NOT_CHECK, UNANCHORED, CHECKPOINTED)

ANCHOR_STALE = "ANCHOR_STALE"
CHECKED_ZERO = "CHECKED_ZERO"
SWEEP_STALE = "SWEEP_STALE"

_GRADED = {ANCHOR_STALE: UNANCHORED, CHECKED_ZERO: COULD_NOT_CHECK, SWEEP_STALE: COULD_NOT_CHECK}
"""The codes that prove no fault, and the best verdict beside each. Every other code fails a chain."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a thief of that level could do so that even a verification of the whole chain shows nothing.

    ``act``: ``make`` (make up or alter) or ``remove``. ``from_seq`` to ``through_seq``: the entries; None and None: no
    entry; ``through_seq`` alone None: all from there on. ``is_worst_case``: copies on other machines, of which this
    server does not know, may make it smaller.
    """

    threat: Literal["T1", "T2", "T3"]
    act: Literal["make", "remove"]
    from_seq: int | None
    through_seq: int | None
    is_worst_case: bool
    sentence: str


def first_failing(findings: Sequence[ChainBreak]) -> ChainBreak | None:
    """The gravest finding that is a fault; None when the chain is not failed."""
    return next((finding for finding in findings if finding.code not in _GRADED), None)


def grade(findings: Sequence[ChainBreak], newest_seq: int | None) -> Verdict:
    """The word for these findings. ``newest_seq``: of the newest checkpoint that confirms a checked entry."""
    best = UNANCHORED if newest_seq is None else CHECKPOINTED
    return min((best, *(_GRADED.get(finding.code, FAILED) for finding in findings)), key=WORST_FIRST.index)


def windows(newest_seq: int | None, exempt_through: int) -> tuple[Window, ...]:
    """What remains possible in a chain that is not failed. ``exempt_through``: see ``MacCheck``."""
    after = (newest_seq or 0) + 1
    made = _made(exempt_through)
    kept = "no checkpoint confirms one" if newest_seq is None else f"no checkpoint confirms one after {newest_seq}"
    return (
        Window("T1", "make", *made),
        Window(
            "T1",
            "remove",
            after,
            None,
            False,
            f"who writes the database can remove the newest entries, back to entry {after}: {kept}; "
            "the sweep of a machine that saw them, or a receipt, shows it",
        ),
        Window(
            "T2",
            "make",
            *made[:3],
            "who writes this machine's disk too can make no more than T1, while the master key is not on that disk: "
            "with it he is T3",
        ),
        Window(
            "T2",
            "remove",
            1,
            None,
            True,
            "who writes this machine's disk too can put back an older copy of database, checkpoints and record of "
            "sweeps together: only a checkpoint, log or receipt on another machine shows it, and this server does not "
            "know what is kept there",
        ),
        *(
            Window(
                "T3",
                act,
                1,
                None,
                True,
                f"who has the keys can {does} every entry and sign anew: only a checkpoint, log, receipt or bundle on "
                "another machine contradicts him, and this server does not know what is kept there",
            )
            for act, does in _ACTS
        ),
    )


_ACTS: tuple[tuple[Literal["make", "remove"], str], ...] = (("make", "make up or alter"), ("remove", "remove"))


def _made(exempt_through: int) -> tuple[int | None, int | None, bool, str]:
    """What who writes the database can make: ``Window`` from its third field on."""
    if exempt_through >= ALL:
        sentence = "who writes the database can make up entries without a MAC: these pass until the upgrade is over"
        return 1, None, False, sentence
    if exempt_through:
        sentence = (
            f"who wrote the database before entries 1 to {exempt_through} were adopted could have made them up: "
            "they have no MAC of their own; since then none can be made or altered"
        )
        return 1, exempt_through, False, sentence
    sentence = "who writes the database can make up or alter no entry: each has a MAC under a key that is not in it"
    return None, None, False, sentence


def newest_age_s(checkpoints: CheckpointComparison, now_us: int) -> int | None:
    """Seconds since the newest checkpoint that counts was signed, 0 if that is to come; None without one."""
    if checkpoints.newest_time is None:
        return None
    return max(0, (now_us - parse_timestamp(checkpoints.newest_time)) // 1_000_000)


def grade_record(verdict: ChainVerdict, at_us: int) -> dict[str, Any]:
    """The graded part of a verdict as JSON; ages are those at that time, microseconds since the epoch.

    A failed chain has no windows: what is wrong with it, its findings say.
    """
    checkpoints = verdict.checkpoints
    possible = () if verdict.verdict == FAILED else windows(checkpoints.newest_seq, verdict.exempt_through)
    return {
        "verdict": verdict.verdict,
        "findings": [asdict(finding) for finding in verdict.findings],
        "anchors": [
            {
                "kind": "checkpoint",
                "newest_seq": checkpoints.newest_seq,
                "newest_time": checkpoints.newest_time,
                "age_s": newest_age_s(checkpoints, at_us),
                "compared": checkpoints.compared_count,
                "signatures_checked": checkpoints.signatures_checked_count,
            }
        ],
        "not_checked": list(verdict.unchecked),
        "forgeable": [asdict(window) for window in possible],
    }
