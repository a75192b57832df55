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


class RedactionOut(BaseModel):
    """The redaction entry that took the payload's place."""

    redaction_id: str
    seq: int
    hash: str
    timestamp: str
    decision_id: str


class UsageOut(BaseModel):
    """What the environment stores, and may store."""

    stored_bytes: int | None
    stored_bytes_max: int | None
