"""``[plugins.billing]``: every setting with its unit and default."""

from __future__ import annotations

from pydantic import Field

from precipiq_billing.plans.config import PlansConfig
from precipiq_core.plugin import PluginConfig


class BillingConfig(PluginConfig):
    """Settings of money and Stripe."""

    webhook_body_bytes_max: int = Field(1024 * 1024, ge=1024, description="largest delivery of Stripe, bytes")
    endpoints_max: int = Field(16, ge=1, le=100, description="Stripe endpoints of one organisation and environment")
    endpoint_refresh_s: float = Field(
        5.0, gt=0, le=60, description="time after which another process's change of an endpoint counts here, seconds"
    )
    endpoints_cached_max: int = Field(10_000, ge=1, description="Stripe endpoints and their secrets kept in memory")
    secret_grace_max_s: int = Field(
        7 * 86_400, ge=0, description="longest time that an endpoint's old secret stays good beside a new one, seconds"
    )
    accept_test_mode_in_live: bool = Field(
        True, description="book events of Stripe's test mode in the environment live; each entry says which mode it was"
    )
    seal_retry_s: float = Field(
        5.0, gt=0, description="time between looks for stored deliveries that are not in the chain yet, seconds"
    )
    plans: PlansConfig | None = Field(
        None, description="plans of a deployment that charges its own tenants; without it nobody is limited by a plan"
    )
