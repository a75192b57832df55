"""``[plugins.billing.plans]``: which prices of Stripe stand for which plan, and what each plan allows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pydantic import Field, field_validator, model_validator

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.plans import PlanLimits
from precipiq_contracts.settings import SecretReference
from precipiq_core.plugin import PluginConfig
from precipiq_core.settings import suggest

_DAY_S = 86_400
_SECRET_PREFIX = "whsec_"


class TierConfig(PluginConfig):
    """One plan: its prices, and its limits. A limit that is absent leaves the deployment's own setting."""

    prices: tuple[str, ...] = Field((), description="ids of Stripe's prices, or of its older plans")
    writes_per_second_max: int | None = Field(None, ge=1, description="single writes per environment")
    batches_per_second_max: int | None = Field(None, ge=1, description="batches per environment")
    reads_per_second_max: int | None = Field(None, ge=1, description="reads per environment")
    streams_max: int | None = Field(None, ge=1, description="open streams of a process")
    open_exports_max: int | None = Field(None, ge=1, description="exports that wait or run")
    stored_bytes_max: int | None = Field(None, ge=1, description="statements and payloads per environment, bytes")

    @field_validator("prices")
    @classmethod
    def _check_prices(cls, prices: tuple[str, ...]) -> tuple[str, ...]:
        if any(not price or price != price.strip() for price in prices):
            raise ValueError("a price's id is empty or has white space around it")
        return prices

    @cached_property
    def limits(self) -> PlanLimits:
        """The plan's limits."""
        return PlanLimits(
            self.writes_per_second_max,
            self.batches_per_second_max,
            self.reads_per_second_max,
            self.streams_max,
            self.open_exports_max,
            self.stored_bytes_max,
        )


class PlansConfig(PluginConfig):
    """Settings of plans. The order of ``tiers`` in the file is their rank; the last one is the highest."""

    webhook_secret: SecretReference = Field(
        description="signing secret, whsec_..., of the webhook endpoint in the operator's own Stripe account"
    )
    previous_webhook_secret: SecretReference | None = Field(
        None, description="the one before it, while Stripe still signs with both"
    )
    default: str = Field(description="plan of every organisation without a subscription that counts")
    grace_s: int = Field(
        3 * _DAY_S,
        ge=0,
        le=366 * _DAY_S,
        description="time that a plan outlives the end of its period, and an unpaid period keeps it, seconds",
    )
    refresh_s: float = Field(
        1.0, gt=0, le=60, description="time between looks for what other processes were told of, seconds"
    )
    tiers: dict[str, TierConfig] = Field(min_length=1, description="plans by name, the lowest first")

    @model_validator(mode="after")
    def _check_tiers(self) -> PlansConfig:
        if self.default not in self.tiers:
            raise ValueError(f"default names no tier: {self.default}{suggest(self.default, self.tiers)}")
        owners: dict[str, str] = {}
        for name, tier in self.tiers.items():
            for price in tier.prices:
                if price in owners:
                    raise ValueError(f"price {price} stands in tier {owners[price]} and in tier {name}")
                owners[price] = name
        return self

    @cached_property
    def tier_of_price(self) -> Mapping[str, str]:
        """Price -> name of its tier."""
        return {price: name for name, tier in self.tiers.items() for price in tier.prices}

    @cached_property
    def rank_of_tier(self) -> Mapping[str, int]:
        """Name of a tier -> 0 for the lowest."""
        return {name: rank for rank, name in enumerate(self.tiers)}

    def secrets(self) -> tuple[str, ...]:
        """The signing secrets of deliveries. Raises ``DeploymentError`` for a missing or malformed secret."""
        references = {"webhook_secret": self.webhook_secret, "previous_webhook_secret": self.previous_webhook_secret}
        where = "plugins.billing.plans"
        secrets = {name: each.reveal(f"{where}.{name}") for name, each in references.items() if each is not None}
        problems = [
            f"{where}.{name}: no signing secret of a Stripe webhook; one begins with {_SECRET_PREFIX}"
            for name, secret in secrets.items()
            if not secret.startswith(_SECRET_PREFIX)
        ]
        if problems:
            raise DeploymentError(problems)
        return tuple(secrets.values())
