"""The requests and answers of the ledger's endpoints, as the contract names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    create_model,
)

from precipiq_core.http.validation import EndMoment, Moment, RequestModel, no_nul
from precipiq_ledger.config import BATCH_ENTRIES_MAX
from precipiq_ledger.grading import Verdict

Name = Annotated[StrictStr, Field(min_length=1, max_length=255), AfterValidator(no_nul)]
Confidence = Annotated[StrictInt | StrictFloat, Field(ge=0, le=1)]
JsonObject = dict[str, Any]  # any JSON: what it holds is the caller's business


class DecisionIn(RequestModel):
    """A decision to record."""

    agent_id: Name
    action_type: Name
    inputs: JsonObject
    outputs: JsonObject
    confidence: Confidence
    alternatives: list[JsonObject] | None = Field(None, fail_fast=True)
    human_in_loop: StrictBool = False
    metadata: JsonObject | None = None
    external_id: Name | None = Field(None, description="your own id; a second decision with it returns the first")


class DecisionBatchIn(RequestModel):
    """Decisions to record together: all or none, in this order."""

    decisions: list[DecisionIn] = Field(min_length=1, max_length=BATCH_ENTRIES_MAX)


def batch_model(entries_max: int) -> type[DecisionBatchIn]:
    """The model of a batch of so many decisions at most: the others of a longer one are not looked at."""
    decisions = (list[DecisionIn], Field(min_length=1, max_length=entries_max))
    return create_model(
        "DecisionBatchIn", __base__=DecisionBatchIn, __doc__=DecisionBatchIn.__doc__, decisions=decisions
    )


class DecisionQuery(RequestModel):
    """Which decisions to list; all conditions hold at once."""

    agent_id: Annotated[str, Field(max_length=255)] | None = None
    action_type: Annotated[str, Field(max_length=255)] | None = None
    start: Moment | None = Field(None, description="first moment, ISO 8601")
    end: EndMoment | None = Field(None, description="moment before which, ISO 8601; a bare date includes that UTC day")
    metadata: dict[str, str] = Field(default_factory=dict, description="decisions whose metadata has this value")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="items of a page")
    cursor: Annotated[str, Field(max_length=200)] | None = Field(None, description="next_cursor of the page before")


class EntryQueryParameters(RequestModel):
    """Which raw entries to read."""

    after_seq: Annotated[int, Field(ge=0, lt=2**63)] = 0
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="entries of a page")
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] | None = None


class VerifyQuery(RequestModel):
    """What to verify."""

    from_seq: Annotated[int, Field(ge=1, lt=2**63)] = Field(1, description="first entry to check")


class Receipt(BaseModel):
    """Proof that a decision is in the chain; keep it."""

    decision_id: str
    hash: str
    timestamp: str
    seq: int
    prev_hash: str


class Receipts(BaseModel):
    """The receipts of a batch, in its order."""

    receipts: list[Receipt]
    count: int


class Decision(BaseModel):
    """A decision with its proof. After a redaction the payload's fields and the salt are null."""

    model_config = ConfigDict(extra="forbid")

    id: str
    org_id: str
    environment: Literal["live", "test"]
    agent_id: str
    action_type: str
    inputs: JsonObject | None
    outputs: JsonObject | None
    confidence: float
    alternatives: list[JsonObject] | None
    human_in_loop: bool
    metadata: JsonObject | None
    timestamp: str
    external_id: str | None
    v: int
    seq: int
    actor: str
    salt: str | None
    payload_hash: str
    prev_hash: str
    hash: str
    redacted: bool = False
    redaction_id: str | None = None


class DecisionPage(BaseModel):
    """Decisions, newest first. A page may be short, even empty, while ``next_cursor`` says to go on."""

    items: list[Decision]
    next_cursor: str | None


class StatementOut(BaseModel):
    """The permanent part of an entry: its canonical form (RFC 8785) is what ``hash`` is the SHA-256 of."""

    model_config = ConfigDict(extra="forbid")

    v: int
    org_id: str
    environment: Literal["live", "test"]
    seq: int
    id: str
    kind: str
    timestamp: str
    actor: str
    body: JsonObject
    payload_hash: str | None
    prev_hash: str


class RawEntry(BaseModel):
    """An entry as it was hashed."""

    statement: StatementOut
    hash: str
    payload: JsonObject | None
    salt: str | None


class RawEntries(BaseModel):
    """Entries, oldest first; ``next_after_seq`` is null at the end of the chain."""

    items: list[RawEntry]
    next_after_seq: int | None


class HeadOut(BaseModel):
    """The last entry of a chain: 0 and 64 zeros while it is empty."""

    seq: int
    hash: str


class RedactionOut(BaseModel):
    """The redaction entry that took the payload's place."""

    redaction_id: str
    seq: int
    hash: str
    timestamp: str
    decision_id: str


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
