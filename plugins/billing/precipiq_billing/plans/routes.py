"""The endpoints of plans: an organisation reads its plan, Stripe delivers events of subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from precipiq_billing.plans.config import PlansConfig
from precipiq_billing.plans.models import PlanOut, PlanWebhookOut
from precipiq_billing.plans.service import PlanBook, UnlimitedPlans
from precipiq_billing.signatures import check_signature
from precipiq_billing.webhooks import Delivered, delivery_endpoint, parse_event, signature_of
from precipiq_contracts.clock import Clock, format_timestamp
from precipiq_core.http.endpoint import Call, Endpoint, NoBody, NoQuery

WEBHOOK_PATH = "/api/v1/webhooks/stripe/plans"


class PlanRoutes:
    """Handlers of the endpoints that need a key."""

    def __init__(self, plans: PlanBook | UnlimitedPlans) -> None:
        self._plans = plans

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        return [Endpoint("GET", "/plan", self.get_plan, "read", PlanOut)]

    async def get_plan(self, call: Call[NoBody, NoQuery]) -> object:
        """Get the organisation's plan and what it allows."""
        org_id = call.principal.chain.org_id
        standing = self._plans.of(org_id)
        until_s = None if standing is None else standing.valid_until_s
        return {
            "plan": None if standing is None else standing.plan,
            "valid_until": None if until_s is None else format_timestamp(until_s * 1_000_000),
            "limits": asdict(self._plans.limits_of(org_id)),
        }


class PlanWebhook:
    """Takes the deliveries of the operator's own Stripe account."""

    def __init__(self, book: PlanBook, config: PlansConfig, clock: Clock) -> None:
        self._book = book
        self._config = config
        self._clock = clock
        self._secrets: tuple[str, ...] = ()

    def start(self) -> None:
        """Read the signing secrets. Raises ``DeploymentError`` for a missing or malformed secret."""
        self._secrets = self._config.secrets()

    def endpoint(self, body_bytes_max: int) -> Endpoint:
        return delivery_endpoint(WEBHOOK_PATH, self.receive_delivery, PlanWebhookOut, body_bytes_max)

    async def receive_delivery(self, call: Delivered) -> object:
        """Where the operator's own Stripe account delivers events of subscriptions."""
        # The change is durable when this returns; after anything else Stripe delivers again.
        await check_signature(call.body, signature_of(call), self._secrets, self._clock.now_us())
        reason = await self._book.take(parse_event(call.body))
        return {"processed": reason is None, "reason": reason}
