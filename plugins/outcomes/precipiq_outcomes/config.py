"""``[plugins.outcomes]``: every setting with its unit and default."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from precipiq_core.plugin import PluginConfig


def _check_currency(code: str) -> str:
    if not re.fullmatch("[A-Z]{3}", code):
        raise ValueError("write three capital letters, such as USD")
    return code


_Currency = Annotated[str, AfterValidator(_check_currency)]


class CorrelationConfig(PluginConfig):
    """Settings of the worker that suggests links. The four weights are parts of 1."""

    enabled: bool = Field(True, description="suggest links between new financial events and earlier decisions")
    interval_s: float = Field(5.0, gt=0, description="time between looks for new financial events, seconds")
    window_s: int = Field(7 * 86_400, ge=60, description="how long before an event its decision may have been, seconds")
    half_life_s: int = Field(
        6 * 3600, ge=1, description="age of a decision at which the temporal score has halved, seconds"
    )
    candidates_max: int = Field(100, ge=1, le=500, description="newest decisions that one event is scored against")
    links_per_event_max: int = Field(3, ge=1, le=50, description="links that the worker makes for one event")
    suggested_min: float = Field(0.40, ge=0, le=1, description="score below which nothing is suggested")
    inferred_min: float = Field(0.75, ge=0, le=1, description="score from which a link is active at once")
    temporal_weight: float = Field(0.25, ge=0, le=1, description="weight of how near in time")
    metadata_weight: float = Field(0.45, ge=0, le=1, description="weight of what the metadata have in common")
    prior_weight: float = Field(0.15, ge=0, le=1, description="weight of how often the agent's suggestions were right")
    amount_weight: float = Field(0.15, ge=0, le=1, description="weight of how plausible the amount is")

    @model_validator(mode="after")
    def _add_up(self) -> CorrelationConfig:
        total = self.temporal_weight + self.metadata_weight + self.prior_weight + self.amount_weight
        if abs(total - 1) > 1e-9:
            raise ValueError("the four weights must add up to 1")
        if self.suggested_min > self.inferred_min:
            raise ValueError("suggested_min must not be above inferred_min")
        return self


class LiabilityConfig(PluginConfig):
    """Settings of liability estimates."""

    currency: _Currency = Field("USD", description="currency of the bases and the cap, ISO 4217")
    bases: dict[str, Decimal] = Field(
        default={
            "email_send": Decimal(500),
            "contract_generation": Decimal(10_000),
            "pricing_change": Decimal(10_000),
            "claim_denial": Decimal(50_000),
            "medical_recommendation": Decimal(200_000),
        },
        description="what a wrong decision of that action_type may cost",
    )
    base: Decimal = Field(Decimal(10_000), ge=0, description="what a wrong decision of any other type may cost")
    cap: Decimal = Field(Decimal(10_000_000), ge=0, description="the most that one decision is estimated at")


class OutcomesConfig(PluginConfig):
    """Settings of links and what they add up to."""

    default_currency: _Currency = Field("USD", description="currency of a profit and loss without any money, ISO 4217")
    batch_entries: int = Field(2_000, ge=10, le=5_000, description="entries that one transaction takes in")
    read_wait_s: float = Field(
        10.0, gt=0, description="how long a read waits for a chain that is still being taken in, seconds"
    )
    timeline_points_max: int = Field(1000, ge=1, le=10_000, description="intervals of one timeline")
    questions_at_once_max: int = Field(
        2, ge=1, description="analytics at the same time, in turns; of one organisation one fewer, but one at least"
    )
    questions_queue_max: int = Field(1000, ge=1, description="analytics that wait; more are told to try again")
    estimate_interval_s: float = Field(
        1.0, gt=0, description="time between looks for estimates that a link may have changed, seconds"
    )
    correlation: CorrelationConfig = Field(CorrelationConfig(), description="the worker that suggests links")
    liability: LiabilityConfig = Field(LiabilityConfig(), description="what a wrong decision may cost")
