"""The requests and answers of the endpoints of outcomes, as the contract names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StrictFloat, StrictInt, StrictStr

from precipiq_core.http.validation import EndMoment, Moment, RequestModel, no_nul
from precipiq_outcomes.links import RESERVED_METHODS, LinkType, Status


def _refuse_reserved(value: str) -> str:
    if value in RESERVED_METHODS:
        raise ValueError("is reserved for links that the correlation worker makes")
    return value


EntryId = Annotated[StrictStr, Field(min_length=1, max_length=64), AfterValidator(no_nul)]
Agent = Annotated[str, Field(min_length=1, max_length=255)]
CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class LinkIn(RequestModel):
    """A link from a decision to the money that it moved. ``correlation_strength``: 1 when it surely did."""

    decision_id: EntryId
    financial_event_id: EntryId
    correlation_strength: Annotated[StrictInt | StrictFloat, Field(ge=0, le=1)]
    attribution_method: Annotated[
        StrictStr, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$"), AfterValidator(_refuse_reserved)
    ] = "direct"
    link_type: LinkType
    notes: Annotated[StrictStr, Field(max_length=4000), AfterValidator(no_nul)] | None = None


class LinkRedaction(BaseModel):
    """The redaction entry that took the notes' place."""

    redaction_id: str
    seq: int
    hash: str
    timestamp: str
    link_id: str


class LinkQuery(RequestModel):
    """Which links to list; all conditions hold at once."""

    decision_id: Annotated[str, Field(max_length=64)] | None = None
    financial_event_id: Annotated[str, Field(max_length=64)] | None = None
    agent_id: Agent | None = None
    link_type: LinkType | None = None
    status: Status | None = None
    attribution_method: Annotated[str, Field(max_length=64)] | None = None
    currency: CurrencyCode | None = None
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="items of a page")
    cursor: Annotated[str, Field(max_length=200)] | None = Field(None, description="next_cursor of the page before")


class Link(BaseModel):
    """A link. Only an ``active`` one counts in sums; a ``suggested`` one waits for confirm or reject.

    ``score``: why the worker proposed it: the parts, their weights and the total.
    """

    id: str
    org_id: str
    environment: Literal["live", "test"]
    decision_id: str
    financial_event_id: str
    correlation_strength: float
    attribution_method: str
    link_type: LinkType
    notes: str | None
    status: Status
    agent_id: str
    action_type: str
    amount: str
    currency: str
    score: dict[str, Any] | None
    seq: int
    created_at: str
    confirmed_at: str | None
    rejected_at: str | None
    deleted_at: str | None


class LinkPage(BaseModel):
    """Links, newest first."""

    items: list[Link]
    next_cursor: str | None


class PnlQuery(RequestModel):
    """Of what: a half-open range of time, an agent, a currency."""

    start: Moment | None = Field(None, description="first moment, ISO 8601")
    end: EndMoment | None = Field(None, description="moment before which, ISO 8601; a bare date includes that UTC day")
    agent_id: Agent | None = None
    currency: CurrencyCode | None = Field(None, description="needed when the range has money in several")


class TimelineQuery(PnlQuery):
    """Of what, and in which steps. Without ``start`` the newest 30 days, 26 weeks or 12 months."""

    interval: Literal["day", "week", "month"] = "day"


class LiabilityQuery(RequestModel):
    """Which decisions."""

    start: Moment | None = Field(None, description="first moment, ISO 8601")
    end: EndMoment | None = Field(None, description="moment before which, ISO 8601; a bare date includes that UTC day")
    agent_id: Agent | None = None
    action_type: Agent | None = None


class AgentImpact(BaseModel):
    """What an agent earned or cost."""

    agent_id: str
    net_impact: str
    decision_count: int


class ProfitAndLoss(BaseModel):
    """AI profit and loss, two decimals. Money counts when it moved, a decision when it was taken.

    ``net_ai_impact``: revenue and (negative) cost together. ``total_liability_exposure``: what the decisions may cost,
    in ``liability_currency``; it is no part of the net.
    """

    currency: str
    total_revenue_attributed: str
    total_cost_attributed: str
    total_liability_exposure: str
    liability_currency: str
    net_ai_impact: str
    decision_count: int
    link_count: int
    top_agents: list[AgentImpact]
    start: str | None
    end: str | None
    agent_id: str | None


class TimelinePoint(BaseModel):
    """One interval: ``start`` <= time < ``end``."""

    start: str
    end: str
    revenue_attributed: str
    cost_attributed: str
    net_impact: str
    decision_count: int
    link_count: int


class Timeline(BaseModel):
    """Profit and loss interval by interval, oldest first."""

    currency: str
    interval: Literal["day", "week", "month"]
    agent_id: str | None
    points: list[TimelinePoint]


class PairExposure(BaseModel):
    """What an agent's decisions of one type may cost, and how often such ones did."""

    agent_id: str
    action_type: str
    estimated_exposure: str
    interval_low: str
    interval_high: str
    decision_count: int
    loss_rate: str


class Liability(BaseModel):
    """What decisions may cost, probably between ``interval_low`` and ``interval_high``: for information only."""

    currency: str
    estimated_exposure: str
    interval_low: str
    interval_high: str
    decision_count: int
    by_agent_and_action: list[PairExposure]
    start: str | None
    end: str | None
    agent_id: str | None
    action_type: str | None
