"""Endpoints in the shape of the REST contract. Pure."""

from __future__ import annotations

from typing import Any

from precipiq_billing.endpoint_store import StripeEndpoint
from precipiq_billing.stripe_events import HANDLED
from precipiq_contracts.clock import format_moment, format_timestamp

ENDPOINT_PATH = "/api/v1/webhooks/stripe/{endpoint_id}"


def endpoint_record(endpoint: StripeEndpoint, public_url: str, now_us: int) -> dict[str, Any]:
    """An endpoint in the contract's shape. ``public_url``: of the deployment."""
    until_us = endpoint.previous_expires_us
    is_rolling = until_us is not None and until_us > now_us
    return {
        "id": endpoint.endpoint_id,
        "environment": endpoint.chain.environment,
        "url": public_url.rstrip("/") + ENDPOINT_PATH.format(endpoint_id=endpoint.endpoint_id),
        "description": endpoint.description,
        "has_secret": endpoint.secret is not None,
        "secret_hint": endpoint.secret_hint,
        "secret_set_at": format_moment(endpoint.secret_set_us),
        "previous_secret_good_until": format_moment(until_us) if is_rolling else None,
        "created_at": format_timestamp(endpoint.created_us),
        "event_types": list(HANDLED),
    }
