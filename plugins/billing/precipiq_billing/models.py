"""The requests and answers of billing's endpoints, as the contract names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StrictInt, StrictStr, ValidationInfo, field_validator

from precipiq_billing.currencies import currency_exponent, withdrawal_problem
from precipiq_billing.money import canonical_amount, sign_problem
from precipiq_core.http.validation import EndMoment, Moment, RequestModel, no_nul

Source = Literal["stripe", "quickbooks", "webhook", "manual", "internal"]
EventType = Literal["payment", "refund", "chargeback", "cost", "liability", "invoice", "expense", "write_off", "other"]


def _currency(value: str) -> str:
    currency_exponent(value)
    return value


def _secret(value: str) -> str:
    if not value.startswith("whsec_") or not all("!" <= character <= "~" for character in value):
        raise ValueError("must be a signing secret of Stripe, whsec_...")
    return value


CurrencyCode = Annotated[StrictStr, Field(min_length=3, max_length=3), AfterValidator(_currency)]
ExternalId = Annotated[StrictStr, Field(min_length=1, max_length=255), AfterValidator(no_nul)]
Secret = Annotated[StrictStr, Field(min_length=22, max_length=255), AfterValidator(_secret)]
Description = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(no_nul)]


class FinancialEventIn(RequestModel):
    """Money that moved.

    ``amount``: a signed decimal string: payment and invoice positive; refund, chargeback, cost, liability, expense and
    write_off negative; other either; payment, refund and chargeback not 0. ``timestamp``: when it moved, by itself
    when it is recorded.
    """

    source: Source
    event_type: EventType
    currency: CurrencyCode = Field(description="ISO 4217, such as USD; one that was withdrawn for money of its time")
    amount: Annotated[StrictStr, Field(min_length=1, max_length=24)]
    external_id: ExternalId | None = Field(None, description="your own id; unique with the source")
    timestamp: Moment | None = None
    metadata: dict[str, Any] | None = None

    @field_validator("amount")
    @classmethod
    def _check_amount(cls, value: str, info: ValidationInfo) -> str:
        """The amount as it is recorded. A field that stands before it and is wrong is told of by itself."""
        if not {"event_type", "currency"} <= info.data.keys():
            return value
        amount = canonical_amount(value, info.data["currency"])
        problem = sign_problem(info.data["event_type"], amount)
        if problem is not None:
            raise ValueError(problem)
        return amount

    @field_validator("timestamp")
    @classmethod
    def _check_time(cls, value: str | None, info: ValidationInfo) -> str | None:
        problem = None if value is None else withdrawal_problem(info.data.get("currency", ""), value)
        if problem is not None:
            raise ValueError(problem)
        return value


class FinancialEventQuery(RequestModel):
    """Which financial events to list; all conditions hold at once."""

    source: Source | None = None
    event_type: EventType | None = None
    currency: Annotated[str, Field(max_length=3)] | None = None
    external_id: Annotated[str, Field(max_length=255)] | None = None
    object_id: Annotated[str, Field(max_length=255)] | None = Field(None, description="Stripe's id of the object")
    related_id: Annotated[str, Field(max_length=255)] | None = Field(None, description="Stripe's id of its payment")
    start: Moment | None = Field(None, description="recorded at or after this moment, ISO 8601")
    end: EndMoment | None = Field(None, description="recorded before this moment; a bare date includes that UTC day")
    metadata: dict[str, str] = Field(default_factory=dict, description="events whose metadata has this value")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="items of a page")
    cursor: Annotated[str, Field(max_length=200)] | None = Field(None, description="next_cursor of the page before")


class FinancialEvent(BaseModel):
    """Money that moved, with its proof.

    ``timestamp``: when it moved, ``created_at``: when it was recorded. ``object_id``, ``related_id``, ``cause`` and
    ``livemode``: of events from Stripe: its id of the object and of the payment it belongs to, the type of its event,
    and whether it was real money there.
    """

    id: str
    org_id: str
    environment: Literal["live", "test"]
    source: str
    event_type: str
    amount: str
    currency: str
    external_id: str | None
    timestamp: str
    created_at: str
    metadata: dict[str, Any] | None
    object_id: str | None
    related_id: str | None
    cause: str | None
    livemode: bool | None
    v: int
    seq: int
    actor: str
    salt: str | None
    payload_hash: str | None
    prev_hash: str
    hash: str
    redacted: bool = False
    redaction_id: str | None = None


class FinancialEventPage(BaseModel):
    """Financial events, newest first. A page may be short, even empty, while ``next_cursor`` says to go on."""

    items: list[FinancialEvent]
    next_cursor: str | None


class FinancialEventRedaction(BaseModel):
    """The redaction entry that took the metadata's place."""

    redaction_id: str
    seq: int
    hash: str
    timestamp: str
    financial_event_id: str


class Delivery(BaseModel):
    """What became of a delivery. ``financial_event_id``: of the entry, also of one that was made before."""

    processed: bool
    reason: str | None
    financial_event_id: str | None = None


class EndpointIn(RequestModel):
    """A new endpoint. The secret may follow: Stripe tells it only after the endpoint's URL was registered there."""

    description: Description | None = None
    secret: Secret | None = Field(None, description="the endpoint's signing secret, whsec_...; never shown again")


class SecretIn(RequestModel):
    """An endpoint's new signing secret. ``grace_seconds``: how long the one before stays good beside it."""

    secret: Secret = Field(description="the endpoint's signing secret, whsec_...; never shown again")
    grace_seconds: Annotated[StrictInt, Field(ge=0)] = 0


class EndpointOut(BaseModel):
    """An endpoint for Stripe's events. ``url``: what to register there. ``secret_hint``: the secret's last four.

    ``previous_secret_good_until``: while the secret is rolled. ``event_types``: what to have Stripe send.
    """

    id: str
    environment: Literal["live", "test"]
    url: str
    description: str | None
    has_secret: bool
    secret_hint: str | None
    secret_set_at: str | None
    previous_secret_good_until: str | None
    created_at: str
    event_types: list[str]


class EndpointList(BaseModel):
    """Endpoints, newest first."""

    items: list[EndpointOut]
    next_cursor: str | None
