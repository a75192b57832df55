"""What an operator does about what a verification found, a sentence for each code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from precipiq_chain.verify import CHECKPOINT_FORGED, INCONSISTENT_WITH_CHECKPOINT, ORG_MISSING, TRUNCATED
from precipiq_contracts.ledger import ChainBreak
from precipiq_ledger.anchors import CHECKPOINTS_LOST, WRONG_ORIGIN
from precipiq_ledger.grading import ANCHOR_STALE, CHECKED_ZERO
from precipiq_ledger.row_trust import NO_ENTRY
from precipiq_macs.row_macs import KEY_UNANCHORED

_BEGIN_ANEW = (
    "if you meant it, move the folder of checkpoints, and sweep/sweep.json, away on every machine, keep them as "
    "evidence, and start: "
    "see 'Checkpoints' in docs/operators.md"
)
_RESTORED = "if you restored an old copy, declare it with the server stopped: precipiq ledger restored --reason ..."
_OF_A_ROW = (
    "find out who wrote into the database; keep a copy of the row, which grants nothing, then remove it. Make what was "
    "meant by it again, by the interface or a command"
)
_NEXT_STEPS = {
    ORG_MISSING: "find out who deleted the entries; " + _RESTORED,
    INCONSISTENT_WITH_CHECKPOINT: "compare with receipts and backups; " + _RESTORED,
    TRUNCATED: "compare with receipts and backups; " + _RESTORED,
    CHECKPOINT_FORGED: "find out who wrote into the folder of checkpoints, and compare it with a copy of it",
    WRONG_ORIGIN: "find out who copied lines between the files of checkpoints, and compare them with a copy",
    KEY_UNANCHORED: "restore this deployment's master key; if it was replaced: " + _BEGIN_ANEW,
    CHECKPOINTS_LOST: "restore the file from a copy, or compare the chain with receipts and the log events "
    "'checkpoint'; if it was lost by accident: " + _BEGIN_ANEW,
    ANCHOR_STALE: "see in the log why no checkpoint is written; without a server, start one: it writes checkpoints. If "
    "the folder of checkpoints was emptied, find out by whom, and compare the chain with a copy of it",
    CHECKED_ZERO: "compare the organisation's id, the environment and the database with those you mean",
}


def next_steps(findings: Sequence[ChainBreak]) -> Iterator[str]:
    """What an operator does about each, in a sentence."""
    if any(finding.seq == NO_ENTRY for finding in findings):
        yield _OF_A_ROW
    for finding in findings:
        if finding.code in _NEXT_STEPS and finding.seq != NO_ENTRY:
            yield _NEXT_STEPS[finding.code]
