"""The answers about a chain's integrity: verdicts of a verification, and of the sweep."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from precipiq_ledger.grading import Verdict


class HeadOut(BaseModel):
    """The last entry of a chain: 0 and 64 zeros while it is empty."""

    seq: int
    hash: str


class BrokenLink(BaseModel):
    """The first entry that does not hold."""

    seq: int
    code: str
    reason: str
    id: str | None = None


class Checkpoints(BaseModel):
    """What the checkpoints outside the database said.

    ``newest_seq``, ``newest_time`` and ``newest_age_s`` (seconds): of the newest one that counts. ``findings``: what
    contradicts the chain or is missing, the first of each code, the gravest first.
    """

    compared: int
    signatures_checked: int
    newest_seq: int | None
    newest_time: str | None
    newest_age_s: int | None
    findings: list[BrokenLink]


class AnchorOut(BaseModel):
    """Evidence of one kind outside the database.

    ``newest_seq``, ``newest_time``, ``age_s`` (seconds): of the newest that confirms a checked entry, null without one.
    """

    kind: str
    newest_seq: int | None
    newest_time: str | None
    age_s: int | None
    compared: int
    signatures_checked: int


class WindowOut(BaseModel):
    """What a thief could still do unseen by any verification here.

    ``threat``: T1 writes the database, T2 this machine's disk too, T3 has the keys too. ``act``: ``make`` (make up or
    alter) or ``remove``. ``from_seq`` null: no entry; ``through_seq`` null: all from there on. ``is_worst_case``:
    copies on other machines, of which the server does not know, may make it smaller.
    """

    threat: Literal["T1", "T2", "T3"]
    act: Literal["make", "remove"]
    from_seq: int | None
    through_seq: int | None
    is_worst_case: bool
    sentence: str


class Grade(BaseModel):
    """What a verdict is worth.

    ``is_valid`` means: not failed; null when nothing was checked. ``findings``: the gravest first; ``ANCHOR_STALE``,
    ``CHECKED_ZERO`` and ``SWEEP_STALE`` fail nothing. ``forgeable``: empty when the chain failed.
    """

    is_valid: bool | None
    verdict: Verdict
    findings: list[BrokenLink]
    anchors: list[AnchorOut]
    not_checked: list[str]
    forgeable: list[WindowOut]


class Verification(Grade):
    """The verdict on a chain. ``reason``: of the fault, or why nothing was checked. ``unchecked``: ``not_checked``."""

    records_checked: int
    first_broken_link: BrokenLink | None
    reason: str | None
    head: HeadOut
    from_seq: int
    checkpoints: Checkpoints
    unchecked: list[str]


class CheckedThrough(BaseModel):
    """The newest entry that was verified, and when; ``at`` is null before the first time."""

    seq: int
    hash: str
    at: str | None


class LastPass(BaseModel):
    """The last verification of the whole chain that found it whole."""

    began_at: str
    ended_at: str
    records_checked: int
    head: HeadOut


class UnannouncedRow(BaseModel):
    """A row of the database that grants something which the chain does not say: it does not count."""

    code: str
    row: str
    reason: str


class IntegrityOut(Grade):
    """What the continual verification knows of the chain; anchors and findings are those of its last pass."""

    status: Literal["whole", "broken", "stale", "not_checked"]
    first_broken_link: BrokenLink | None
    checked_through: CheckedThrough | None
    last_pass: LastPass | None
    unannounced_rows: list[UnannouncedRow]
