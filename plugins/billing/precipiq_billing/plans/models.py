"""The answers of the endpoints of plans."""

from __future__ import annotations

from pydantic import BaseModel


class PlanLimitsOut(BaseModel):
    """What the plan allows; null: the deployment's own setting applies.

    Requests per second and stored bytes count in each environment, streams on each server process.
    """

    writes_per_second_max: int | None
    batches_per_second_max: int | None
    reads_per_second_max: int | None
    streams_max: int | None
    open_exports_max: int | None
    stored_bytes_max: int | None


class PlanOut(BaseModel):
    """The organisation's plan. ``plan``: null where the deployment has none.

    ``valid_until``: when it ends unless its subscription is renewed before; null: it stays.
    """

    plan: str | None
    valid_until: str | None
    limits: PlanLimitsOut


class PlanWebhookOut(BaseModel):
    """What became of a delivery. ``reason``: why it changed nothing; null when it did."""

    processed: bool
    reason: str | None
